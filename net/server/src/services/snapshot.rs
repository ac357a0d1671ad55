//! Maintenance.Snapshot: a file in messages of 32 KiB, and its sum in a last one.

use grpc::mapping::request::decode;
use grpc::proto::etcdserverpb as pb;
use grpc::{Code, MessageBatch, RequestStream, ResponseSink, Status};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{EtcdService, STORAGE_VERSION, write_status};
use crate::node::SnapshotError;

/// Bytes of the file in one message, as etcd sends them.
const BLOB_BYTES: usize = 32 << 10;

/// Fields of `SnapshotResponse`.
const REMAINING_BYTES: u32 = 2;
const BLOB: u32 = 3;
const VERSION: u32 = 4;

/// A file on its way into messages.
struct Blobs {
    /// Bytes of the file, without its sum, that are in no message yet.
    remaining: u64,
    /// Those of them that are here.
    bytes: Vec<u8>,
}

impl EtcdService {
    pub(super) async fn snapshot(
        &self,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        let Some(message) = requests.next().await? else {
            return Ok(());
        };
        let _request: pb::SnapshotRequest = decode(message)?;
        let snapshot = self.node.snapshot();
        let file_bytes = snapshot.file_bytes().await.map_err(snapshot_status)?;
        let mut blobs = Blobs {
            remaining: file_bytes - bolt::etcd::SUM_BYTES,
            bytes: Vec::new(),
        };
        while let Some(piece) = snapshot.next().await.map_err(snapshot_status)? {
            let batch = blobs.take(&piece)?;
            drop(piece);
            responses.send_batch(batch).await?;
        }
        Ok(())
    }
}

impl Blobs {
    /// Makes messages of what is there; of the sum a message of its own.
    fn take(&mut self, piece: &[u8]) -> Result<MessageBatch, Status> {
        let mut batch = MessageBatch::default();
        batch.reserve(piece.len() + piece.len() / BLOB_BYTES * 64 + 64);
        if self.remaining == 0 {
            push(&mut batch, 0, piece)?;
            return Ok(batch);
        }
        let mut piece = piece;
        while !piece.is_empty() {
            let wanted = (BLOB_BYTES as u64).min(self.remaining) as usize;
            if self.bytes.is_empty() && piece.len() >= wanted {
                let (blob, rest) = piece.split_at(wanted);
                self.remaining -= wanted as u64;
                push(&mut batch, self.remaining, blob)?;
                piece = rest;
                continue;
            }
            let missing = (wanted - self.bytes.len()).min(piece.len());
            let (more, rest) = piece.split_at(missing);
            self.bytes.extend_from_slice(more);
            piece = rest;
            if self.bytes.len() == wanted {
                self.remaining -= wanted as u64;
                push(&mut batch, self.remaining, &self.bytes)?;
                self.bytes.clear();
            }
        }
        Ok(batch)
    }
}

/// Appends a `SnapshotResponse`.
fn push(batch: &mut MessageBatch, remaining: u64, blob: &[u8]) -> Result<(), Status> {
    let field = |tag, len: usize| key_len(tag) + encoded_len_varint(len as u64) + len;
    let remaining_len = match remaining {
        0 => 0,
        remaining => key_len(REMAINING_BYTES) + encoded_len_varint(remaining),
    };
    let version = STORAGE_VERSION.as_bytes();
    let len = remaining_len + field(BLOB, blob.len()) + field(VERSION, version.len());
    batch.push(len, |out| {
        if remaining > 0 {
            encode_key(REMAINING_BYTES, WireType::Varint, out);
            encode_varint(remaining, out);
        }
        for (tag, bytes) in [(BLOB, blob), (VERSION, version)] {
            encode_key(tag, WireType::LengthDelimited, out);
            encode_varint(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
    })
}

fn snapshot_status(error: SnapshotError) -> Status {
    match error {
        SnapshotError::Read(error) => write_status(error),
        SnapshotError::Overtaken => Status::fixed(
            Code::Aborted,
            "ringd: the snapshot took more than an hour, and a compaction has overtaken it; take it over a faster connection",
        ),
        SnapshotError::Format(what) => Status::new(
            Code::Internal,
            format!("ringd: the snapshot cannot be written: {what}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use prost::Message;

    /// Messages of a batch.
    fn messages(batch: MessageBatch) -> Vec<pb::SnapshotResponse> {
        let mut bytes: Bytes = batch.into_bytes();
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let len = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            messages.push(pb::SnapshotResponse::decode(bytes.slice(5..5 + len)).unwrap());
            bytes = bytes.slice(5 + len..);
        }
        messages
    }

    #[test]
    fn blobs_have_32_kib_and_the_sum_is_one_of_its_own() {
        for piece_bytes in [1000, 4096, 32 << 10, 100_000, 300_000] {
            let file: Vec<u8> = (0..250_000_u32).map(|byte| byte as u8).collect();
            let mut blobs = Blobs {
                remaining: file.len() as u64,
                bytes: Vec::new(),
            };
            let pieces = file.chunks(piece_bytes);
            let mut found: Vec<_> = pieces
                .flat_map(|piece| messages(blobs.take(piece).unwrap()))
                .collect();
            found.extend(messages(blobs.take(&[7; 32]).unwrap()));
            let sum = found.pop().unwrap();
            assert_eq!((sum.remaining_bytes, sum.blob.len()), (0, 32));
            let mut remaining = file.len();
            for (message, expected) in found.iter().zip(file.chunks(BLOB_BYTES)) {
                assert_eq!(message.blob, expected);
                remaining -= expected.len();
                assert_eq!(message.remaining_bytes, remaining as u64);
                assert_eq!(message.version, STORAGE_VERSION);
            }
            assert_eq!(
                (found.len(), remaining),
                (file.len().div_ceil(BLOB_BYTES), 0)
            );
        }
    }
}

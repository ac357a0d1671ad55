//! Reads, writes, transactions, watches.

use grpc::proto::etcdserverpb::response_op::Response;
use grpc::proto::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse, WatchResponse,
};
use grpc::proto::mvccpb::KeyValue;
use grpc::proto::mvccpb::event::EventType;

use crate::go::json::{Object, array};

use super::{Answer, Text, Wire, json};

fn simple_kv(text: &mut Text, kv: &KeyValue) {
    let shown = |bytes: &[u8], hex: bool| -> Vec<u8> {
        if hex {
            bytes
                .iter()
                .flat_map(|byte| format!("\\x{byte:02x}").into_bytes())
                .collect()
        } else {
            bytes.to_vec()
        }
    };
    if !text.value_only {
        text.line(shown(&kv.key, text.hex));
    }
    text.line(shown(&kv.value, text.hex));
}

fn fields_kv(text: &mut Text, prefix: &str, kv: &KeyValue) {
    text.quoted(&format!("{prefix}Key"), &kv.key);
    text.field(&format!("{prefix}CreateRevision"), kv.create_revision);
    text.field(&format!("{prefix}ModRevision"), kv.mod_revision);
    text.field(&format!("{prefix}Version"), kv.version);
    text.quoted(&format!("{prefix}Value"), &kv.value);
    text.lease(&format!("{prefix}Lease"), kv.lease);
}

/// The name of an event's kind.
pub(crate) fn kind(number: i32) -> &'static str {
    match EventType::try_from(number) {
        Ok(EventType::Delete) => "DELETE",
        _ => "PUT",
    }
}

impl Answer for RangeResponse {
    fn simple(&self, text: &mut Text) {
        self.kvs.iter().for_each(|kv| simple_kv(text, kv));
    }

    fn json(&self, _: bool) -> String {
        json::range(self)
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        self.kvs.iter().for_each(|kv| fields_kv(text, "", kv));
        text.field("More", self.more);
        text.field("Count", self.count);
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}

impl Answer for PutResponse {
    fn simple(&self, text: &mut Text) {
        text.line("OK");
        self.prev_kv.iter().for_each(|kv| simple_kv(text, kv));
    }

    fn json(&self, _: bool) -> String {
        json::put(self)
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        self.prev_kv
            .iter()
            .for_each(|kv| fields_kv(text, "Prev", kv));
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}

impl Answer for DeleteRangeResponse {
    fn simple(&self, text: &mut Text) {
        text.line(self.deleted.to_string());
        self.prev_kvs.iter().for_each(|kv| simple_kv(text, kv));
    }

    fn json(&self, _: bool) -> String {
        json::delete(self)
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        text.field("Deleted", self.deleted);
        self.prev_kvs
            .iter()
            .for_each(|kv| fields_kv(text, "Prev", kv));
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}

impl Answer for TxnResponse {
    fn simple(&self, text: &mut Text) {
        text.line(if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for answer in &self.responses {
            text.line("");
            match &answer.response {
                Some(Response::ResponseRange(answer)) => answer.simple(text),
                Some(Response::ResponsePut(answer)) => answer.simple(text),
                Some(Response::ResponseDeleteRange(answer)) => answer.simple(text),
                Some(Response::ResponseTxn(answer)) => answer.simple(text),
                None => text.line("unexpected response"),
            }
        }
    }

    fn json(&self, _: bool) -> String {
        json::transaction(self)
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        text.field("Succeeded", self.succeeded);
        for answer in &self.responses {
            match &answer.response {
                Some(Response::ResponseRange(answer)) => answer.fields(text),
                Some(Response::ResponsePut(answer)) => answer.fields(text),
                Some(Response::ResponseDeleteRange(answer)) => answer.fields(text),
                Some(Response::ResponseTxn(answer)) => answer.fields(text),
                None => false,
            };
        }
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}

impl Answer for WatchResponse {
    fn simple(&self, text: &mut Text) {
        for event in &self.events {
            text.line(kind(event.r#type));
            event
                .prev_kv
                .iter()
                .chain(&event.kv)
                .for_each(|kv| simple_kv(text, kv));
        }
    }

    fn json(&self, _: bool) -> String {
        // An end that no answer brought has no list at all.
        let events = match self.header {
            Some(_) => array(&self.events, json::event),
            None => "null".to_owned(),
        };
        let truth = |value: bool| if value { "true" } else { "false" };
        Object::new()
            .raw("Header", &json::flat(self.header.as_ref()).end())
            .raw("Events", &events)
            .number("CompactRevision", self.compact_revision)
            .raw("Canceled", truth(self.canceled))
            .raw("Created", truth(self.created))
            .string("CancelReason", &self.cancel_reason)
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        for event in &self.events {
            text.field("Type", kind(event.r#type));
            event
                .prev_kv
                .iter()
                .for_each(|kv| fields_kv(text, "Prev", kv));
            event.kv.iter().for_each(|kv| fields_kv(text, "", kv));
        }
        true
    }

    fn protobuf(&self) -> Wire {
        // The client's own view of an answer has no ids and no reason.
        Wire::of(&WatchResponse {
            watch_id: 0,
            cancel_reason: String::new(),
            ..self.clone()
        })
    }
}

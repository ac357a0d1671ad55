//! Answers in the five formats.
//!
//! An [`Answer`] knows its texts; a [`Printer`] chooses. `simple` is for people and scripts, `fields` one
//! field per line, `json` the protobuf message as Go's JSON, `protobuf` the message itself, `table` only
//! for what is a table.

pub(crate) mod auth;
pub(crate) mod cluster;
pub(crate) mod endpoints;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod size;
pub(crate) mod table;

use grpc::proto::etcdserverpb::ResponseHeader;
use prost::Message;

use crate::exit::{self, Exit};
use crate::out;
use table::Table;

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the format of its name")]
pub(crate) enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Simple => "simple",
            Format::Fields => "fields",
            Format::Json => "json",
            Format::Protobuf => "protobuf",
            Format::Table => "table",
        }
    }
}

/// What an answer looks like in protobuf.
#[derive(Debug)]
pub(crate) enum Wire {
    /// These bytes.
    Bytes(Vec<u8>),
    /// It is no message of its own; holds what etcdctl calls it.
    NoMessage(&'static str),
    /// The format is not for this command.
    Unsupported,
}

impl Wire {
    /// The bytes of a message.
    pub(crate) fn of(message: &impl Message) -> Self {
        Wire::Bytes(message.encode_to_vec())
    }
}

/// Something to print.
pub(crate) trait Answer {
    /// For people.
    fn simple(&self, text: &mut Text);
    /// As JSON, `hex` only where etcdctl follows it.
    fn json(&self, hex: bool) -> String;
    /// One field per line; `false` if there is no such form.
    fn fields(&self, _text: &mut Text) -> bool {
        false
    }
    /// As a message.
    fn protobuf(&self) -> Wire;
    /// As a table, if it is one.
    fn table(&self) -> Option<Table> {
        None
    }
}

/// Bytes to be printed; keys and values need not be UTF-8.
#[derive(Debug)]
pub(crate) struct Text {
    bytes: Vec<u8>,
    /// Whether bytes and ids are printed in hexadecimal.
    pub(crate) hex: bool,
    /// Whether keys are left out.
    pub(crate) value_only: bool,
}

impl Text {
    /// A line.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(line.as_ref());
        self.bytes.push(b'\n');
    }

    /// `"Name" : value`.
    pub(crate) fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format!("\"{name}\" : {value}"));
    }

    /// `"Name" : "quoted"`.
    pub(crate) fn quoted(&mut self, name: &str, bytes: &[u8]) {
        self.field(name, crate::go::quote::quote(bytes));
    }

    /// A member's or cluster's id.
    pub(crate) fn id(&mut self, name: &str, id: u64) {
        if self.hex {
            self.line(format!("\"{name}\" : {id:x}"));
        } else {
            self.field(name, id);
        }
    }

    /// A lease's id.
    pub(crate) fn lease(&mut self, name: &str, id: i64) {
        if self.hex {
            self.line(format!("\"{name}\" : {id:016x}"));
        } else {
            self.field(name, id);
        }
    }

    /// The header; a revision only where there is one.
    pub(crate) fn header(&mut self, header: Option<&ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }
}

/// A format with its options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    /// The format.
    pub(crate) format: Format,
    hex: bool,
    value_only: bool,
}

impl Printer {
    /// The printer for `--write-out` and `--hex`.
    pub(crate) fn new(format: &str, hex: bool) -> Result<Self, Exit> {
        let format = match format {
            "simple" => Format::Simple,
            "fields" => Format::Fields,
            "json" => Format::Json,
            "protobuf" => Format::Protobuf,
            "table" => Format::Table,
            _ => return Err(Exit::new(exit::FEATURE, "unsupported output format")),
        };
        Ok(Self {
            format,
            hex,
            value_only: false,
        })
    }

    /// The same without keys.
    pub(crate) fn value_only(mut self) -> Self {
        self.value_only = true;
        self
    }

    /// Prints.
    ///
    /// # Errors
    /// The answer has no such form.
    pub(crate) fn print(&self, answer: &impl Answer) -> Result<(), Exit> {
        out::write(&self.bytes(answer)?);
        Ok(())
    }

    fn bytes(&self, answer: &impl Answer) -> Result<Vec<u8>, Exit> {
        let mut text = Text {
            bytes: Vec::new(),
            hex: self.hex,
            value_only: self.value_only,
        };
        let supported = match self.format {
            Format::Simple => {
                answer.simple(&mut text);
                true
            }
            Format::Fields => answer.fields(&mut text),
            Format::Json => {
                text.line(answer.json(self.hex));
                true
            }
            Format::Protobuf => match answer.protobuf() {
                Wire::Bytes(bytes) => {
                    text.bytes = bytes;
                    true
                }
                Wire::NoMessage(name) => {
                    let text = format!("marshal unsupported for type *clientv3.{name}");
                    return Err(Exit::new(exit::FEATURE, text));
                }
                Wire::Unsupported => false,
            },
            Format::Table => match answer.table() {
                Some(table) => {
                    text.bytes = table.render().into_bytes();
                    true
                }
                None => false,
            },
        };
        if supported {
            Ok(text.bytes)
        } else {
            let text = format!("{} not supported as output format", self.format.name());
            Err(Exit::new(exit::FEATURE, text))
        }
    }
}

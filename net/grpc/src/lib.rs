//! The etcd v3 wire: HTTP/2, gRPC framing, protobuf types, and the mapping to engine commands.
//!
//! Owns everything between a byte stream and a [`Service`]: which protocol the peer speaks, limits on
//! what it may send, the framing of messages, deadlines, cancellation, back-pressure, and how answers
//! and errors look on the wire. Refuses to know what a request means: [`mapping`] turns messages into
//! `engine::command` values, and the service does the rest.
//!
//! ```text
//! reactor::Stream → transport → connection ┬→ http1 → Service::http
//!                                          └→ http2 → calls → call ┬→ Service::unary
//!                                                                  └→ Service::stream
//! ```
//!
//! Invariants of absence: no task is spawned (a connection is one future with all its calls inside),
//! no clock is read but the one passed in, and nothing that a peer sends panics.
#![forbid(unsafe_code)]

mod answer;
mod batch;
mod call;
mod connection;
mod frame;
mod http1;
mod http2;
pub mod mapping;
pub mod method;
mod parts;
pub mod proto;
pub mod service;
pub mod status;
pub mod stream;
mod transport;
mod wake;

pub use batch::MessageBatch;
pub use connection::serve_connection;
pub use method::Method;
pub use parts::{MessageParts, PartSink, UnaryAnswer};
pub use service::{
    CallContext, CallEvent, Clock, HttpRequest, HttpResponse, Limits, Messages, Service, Shutdown,
};
pub use status::{Code, Status};
pub use stream::{RequestStream, ResponseSink};

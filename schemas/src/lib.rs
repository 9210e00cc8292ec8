//! The contract between every part of Weft: events, function specs, outcomes, dead letters and link frames.
//!
//! Everything here is data and pure conversion. This crate deliberately does no I/O (but for reading a manifest and its
//! schema files), knows no client library and reads no clock, so that the wire can be tested with any bytes whatever.

pub mod builtin;
pub mod dead_letter;
pub mod event;
pub mod frame;
pub mod http_event;
pub mod json_schema;
pub mod line;
pub mod manifest;
pub mod message;
pub mod name;
pub mod outcome;
pub mod request;
pub mod requeue;
#[cfg(test)]
mod sample;
pub mod shape;
pub mod topic;
pub mod trace;

pub use dead_letter::{DeadLetter, DeadLetterId, Reason};
pub use event::Event;
pub use manifest::Manifest;
pub use message::{HeaderValue, Message, Properties};
pub use name::{Attempt, Digest, Epoch, Fence, FunctionName, Key, NodeName};
pub use outcome::{ErrorInfo, Outcome};
pub use request::RequestKind;
pub use trace::TraceContext;

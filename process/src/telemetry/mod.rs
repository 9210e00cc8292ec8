//! Logs, spans and metrics: the one place that knows the OpenTelemetry SDK.
//!
//! - [`init`] installs the process's subscriber: log lines on stdout or stderr, and spans of the target
//!   [`names::TRACE_TARGET`] to where [`Export`] says.
//! - [`spans`] makes the spans of an event's path, [`names`] holds every exported name.
//! - [`of`], [`set_parent`] and [`link`] carry W3C trace context in and out.
//! - [`Forwarder`] passes on what workers exported through their links.
//! - [`Metrics`] counts.
//!
//! It deliberately does not send logs over OTLP, and never fails or slows an event because of telemetry: what cannot
//! be exported is dropped and counted.

mod client;
mod context;
mod export;
mod forward;
mod init;
mod logs;
mod metrics;
pub mod names;
pub mod spans;

pub use context::{Context, link, of, set_parent, trace_id};
pub use export::{Export, Sink};
pub use forward::Forwarder;
pub use init::{InitError, Settings, Telemetry, init};
pub use logs::{LogFormat, LogTarget};
pub use metrics::{Count, Metrics};

#[cfg(test)]
mod tests;

//! What any process of ours needs: stop signals, retries with backoff, telemetry, secrets that do not print, and
//! reports to people (error codes, pages and exit statuses). It knows nothing of events or functions.

pub mod backoff;
pub mod crash;
pub mod report;
pub mod secret;
pub mod shutdown;
pub mod telemetry;

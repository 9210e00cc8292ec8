//! The admin port: health for orchestrators, status for `weft functions`. Loopback by default; it changes nothing.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /health` | 200 when events can be taken, else 503; JSON with what is wrong |
//! | `GET /status` | 200, [`crate::status::Snapshot`] with the node's name |

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_ledger::Owner;
use weft_schemas::NodeName;

use crate::broker::Health;
use crate::status::Stats;

/// What the admin port can see.
#[derive(Clone)]
pub(crate) struct View {
    pub node: NodeName,
    pub stats: Stats,
    pub broker: watch::Receiver<Health>,
    pub owner: watch::Receiver<Option<Owner>>,
}

/// Binds the port before anything else is started, so that a taken one is told at once.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until cancelled.
pub(crate) async fn serve(listener: TcpListener, view: View, stop: CancellationToken) {
    let app = Router::new().route("/health", get(health)).route("/status", get(status)).with_state(view);
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::warn!(%error, "admin port ended");
    }
}

async fn health(State(view): State<View>) -> (StatusCode, Json<serde_json::Value>) {
    let broker = match &*view.broker.borrow() {
        Health::Connected => None,
        Health::Blocked { reason } => Some(format!("blocked: {reason}")),
        Health::Disconnected { reason } => Some(format!("disconnected: {reason}")),
    };
    let ledger = view.owner.borrow().is_none().then(|| "the node's lease is lost".to_owned());
    let functions: serde_json::Map<String, serde_json::Value> = view
        .stats
        .snapshot()
        .functions
        .into_iter()
        .filter_map(|(name, function)| function.unhealthy.map(|reason| (name.to_string(), reason.into())))
        .collect();
    // A function that does not start is told but does not take the node out: the others work.
    let well = broker.is_none() && ledger.is_none();
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "healthy": well, "broker": broker, "ledger": ledger, "unhealthy_functions": functions })))
}

async fn status(State(view): State<View>) -> Json<serde_json::Value> {
    let mut status = serde_json::to_value(view.stats.snapshot()).unwrap_or_default();
    if let Some(object) = status.as_object_mut() {
        object.insert("node".to_owned(), view.node.as_str().into());
    }
    Json(status)
}

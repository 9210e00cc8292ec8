//! The admin port: health for orchestrators, status for `weft functions`. Loopback by default; it changes nothing.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /health` | 200 when events can be taken, else 503; JSON with what is wrong, by service (`null`: nothing) |
//! | `GET /status` | 200, [`crate::status::Snapshot`] with the node's name and what is wrong with each service |

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
use crate::services::Condition;
use crate::status::Stats;

/// What the admin port can see.
#[derive(Clone)]
pub(crate) struct View {
    pub node: NodeName,
    pub stats: Stats,
    pub broker: watch::Receiver<Health>,
    pub owner: watch::Receiver<Option<Owner>>,
    pub ledger: Condition,
    pub state: Condition,
}

/// What is wrong with each service.
#[derive(serde::Serialize)]
struct Wrong {
    broker: Option<String>,
    ledger: Option<String>,
    state: Option<String>,
}

impl View {
    fn wrong(&self) -> Wrong {
        let broker = match &*self.broker.borrow() {
            Health::Connected => None,
            Health::Blocked { reason } => Some(format!("blocked: {reason}")),
            Health::Disconnected { reason } => Some(format!("disconnected: {reason}")),
        };
        let ledger = match (self.owner.borrow().is_none(), self.ledger.now()) {
            (false, reason) => reason.or_else(|| self.refused()),
            (true, Some(reason)) => Some(format!("the node's lease is lost: {reason}")),
            (true, None) => Some("the node's lease is lost".to_owned()),
        };
        Wrong { broker, ledger, state: self.state.now() }
    }

    /// What the ledger says to the functions: the lease's renewal may fit where their rows do not.
    fn refused(&self) -> Option<String> {
        let functions = self.stats.snapshot().functions.into_iter();
        functions.filter_map(|(name, function)| Some(format!("{name}: {}", function.ledger?))).next()
    }
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
    let Wrong { broker, ledger, state } = view.wrong();
    let functions: serde_json::Map<String, serde_json::Value> = view
        .stats
        .snapshot()
        .functions
        .into_iter()
        .filter_map(|(name, function)| {
            function.unhealthy.or(function.outage).map(|reason| (name.to_string(), reason.into()))
        })
        .collect();
    // A function that does not start is told but does not take the node out: the others work. So is the state, which not
    // every function uses.
    let well = broker.is_none() && ledger.is_none();
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "healthy": well, "broker": broker, "ledger": ledger, "state": state, "unhealthy_functions": functions,
    });
    (code, Json(body))
}

async fn status(State(view): State<View>) -> Json<serde_json::Value> {
    let mut status = serde_json::to_value(view.stats.snapshot()).unwrap_or_default();
    if let Some(object) = status.as_object_mut() {
        object.insert("node".to_owned(), view.node.as_str().into());
        object.insert("services".to_owned(), serde_json::to_value(view.wrong()).unwrap_or_default());
    }
    Json(status)
}

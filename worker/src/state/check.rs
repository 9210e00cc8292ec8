//! Whether the state can be used, for those who start workers: told before the first event needs it.

use std::path::Path;

use redis::{AsyncConnectionConfig, ErrorKind, RedisError, ServerErrorKind};
use weft_process::secret::Address;

use super::redis::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};
use super::{Kind, embedded, kind};

/// Why the state cannot be used. Its text never holds a password.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It does not answer, or not as a store that works does. Start it, or correct the address.
    #[error("reach the state")]
    Unavailable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refuses user or password, or the user may not do what is needed.
    #[error("log in to the state")]
    Refused {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address is of no known kind, or cannot be understood.
    #[error("understand the address of the state: {problem}")]
    Address { problem: String },
}

/// Connects once to the state at `redis://…` (also `rediss`, `redis+unix`, `unix`) and asks for a sign of life; of
/// `sqlite://path` it only wants to see the folder, because the ledger opens the same file and tells more. Takes at most
/// a few seconds. Cancel-safe; safe to repeat.
///
/// # Errors
/// See [`CheckError`].
pub async fn check_state(url: &str) -> Result<(), CheckError> {
    let address = Address::new(url);
    match kind(&address) {
        None => Err(CheckError::Address { problem: "it starts with neither redis:// nor sqlite://".to_owned() }),
        Some(Kind::Embedded) => check_folder(embedded::path(&address)),
        Some(Kind::Redis) => check_redis(&address).await,
    }
}

fn check_folder(file: &Path) -> Result<(), CheckError> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if folder.is_dir() {
        return Ok(());
    }
    let source = format!("the folder {} does not exist", folder.display());
    Err(CheckError::Unavailable { source: source.into() })
}

async fn check_redis(address: &Address) -> Result<(), CheckError> {
    // The library's own text may quote the address; what is wrong with it is said without.
    let client = redis::Client::open(address.expose())
        .map_err(|error| CheckError::Address { problem: error.category().to_owned() })?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let answer = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<String>(&mut connection).await
    };
    match answer.await {
        Ok(_) => Ok(()),
        Err(error) if is_refusal(&error) => Err(CheckError::Refused { source: error.into() }),
        Err(error) => Err(CheckError::Unavailable { source: error.into() }),
    }
}

/// Whether the server refuses who we are, not what we ask.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm))
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        || is_unauthenticated(error)
}

/// To a connection that has not logged in Redis allows short commands only, and calls a longer one (a script with more
/// than ten parts) malformed before it asks who sends it. Redis gives no code for that, only the text.
fn is_unauthenticated(error: &RedisError) -> bool {
    error.detail().is_some_and(|text| {
        ["unauthenticated multibulk length", "unauthenticated bulk length"].iter().any(|known| text.contains(known))
    })
}

/// Whether the server answers, and cannot do its work for the time being: it loads its data, has no memory left, cannot
/// write to its disk, or is a replica or a cluster without a master.
pub(super) fn is_unable(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("LOADING" | "OOM" | "MISCONF" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS")
    )
}

//! What the attempts of one worker share. Nothing here connects before a handler asks.

use tokio::sync::OnceCell;
use weft_ledger::join::{JoinError, Joiner};
use weft_process::secret::Address;
use weft_schemas::FunctionName;
use weft_schemas::frame::Start;

use crate::failure::Failure;
use crate::state::Backend;

pub(crate) struct Services {
    pub(crate) function: FunctionName,
    /// In front of every broker name and every state key of this installation.
    pub(crate) prefix: String,
    /// The largest result of a handler, in bytes of JSON.
    pub(crate) max_result: u64,
    ledger_url: Address,
    joiner: OnceCell<Joiner>,
    state_url: Address,
    state: OnceCell<Backend>,
}

impl Services {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            function: start.function,
            prefix: start.prefix,
            max_result: start.max_result_bytes,
            ledger_url: Address::new(start.ledger_url),
            joiner: OnceCell::new(),
            state_url: Address::new(start.state_url),
            state: OnceCell::new(),
        }
    }

    /// The exchange that emitted events go to.
    pub(crate) fn events_exchange(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// The way to the ledger's database for handlers' transactions, one for the process.
    pub(crate) async fn joiner(&self) -> Result<&Joiner, Failure> {
        let connect = || async { Joiner::connect(self.ledger_url.expose()).map_err(JoinError::from) };
        Ok(self.joiner.get_or_try_init(connect).await?)
    }

    /// The state's backend, chosen by the scheme of its address; the first call of a process sets it up.
    pub(crate) async fn state(&self) -> Result<Backend, Failure> {
        self.state.get_or_try_init(|| Backend::open(&self.state_url)).await.cloned()
    }
}

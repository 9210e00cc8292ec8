//! State in Redis. Each operation is one script: compare the fence, raise it, act.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ErrorKind, RedisError, Script, Value};
use weft_process::secret::Address;
use weft_schemas::{Digest, FunctionName};

use super::check::{is_refusal, is_unable};
use super::{Op, Reply, Scope};
use crate::failure::Failure;

/// How long one command may take. A script here takes microseconds; more than this is an outage.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one connect may take; there is one more try after it.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a fence is remembered after its claim first used the state: far longer than any attempt may run.
const FENCE_TTL_MS: u64 = 48 * 3600 * 1000;

/// KEYS: fence, value, once marker. ARGV: fence (padded, so that text order is number order and no number leaves Lua's
/// exact range), fence TTL, operation, once TTL or "", then the operation's own. All keys share one hash tag.
/// Answers {0} for a stale fence, else {1, answer}.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local seen = redis.call('GET', KEYS[1])
if seen and seen > ARGV[1] then return {0} end
if seen ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
local op, once_ms = ARGV[3], ARGV[4]
if op == 'get' then return {1, redis.call('GET', KEYS[2])} end
if op == 'delete' then return {1, redis.call('DEL', KEYS[2])} end
if op == 'expire' then return {1, redis.call('PEXPIRE', KEYS[2], ARGV[5])} end
if op == 'cas' then
  local now = redis.call('GET', KEYS[2])
  if ARGV[5] == '1' then
    if now ~= ARGV[6] then return {1, 0} end
  elseif now then
    return {1, 0}
  end
  redis.call('SET', KEYS[2], ARGV[7])
  return {1, 1}
end
if once_ms ~= '' then
  local first = redis.call('GET', KEYS[3])
  if first then
    redis.call('PEXPIRE', KEYS[3], once_ms)
    if op == 'set' then return {1, 0} end
    return {1, first}
  end
end
local answer
if op == 'increment' then
  redis.call('INCRBY', KEYS[2], ARGV[5])
  answer = redis.call('GET', KEYS[2])
else
  if ARGV[6] ~= '' then
    redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[6])
  else
    redis.call('SET', KEYS[2], ARGV[5])
  end
  answer = 1
end
if once_ms ~= '' then redis.call('SET', KEYS[3], answer, 'PX', once_ms) end
return {1, answer}
",
    )
});

/// One connection for the whole process; it reconnects by itself.
#[derive(Clone)]
pub(crate) struct RedisState {
    connection: ConnectionManager,
    address: Address,
}

impl RedisState {
    /// Connects with the first operation, not before.
    ///
    /// # Errors
    /// The address cannot be understood.
    pub(crate) fn new(address: Address) -> Result<Self, Failure> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            // The platform retries attempts; here only the blip of a restart is bridged.
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50));
        let connection = redis::Client::open(address.expose())
            .and_then(|client| ConnectionManager::new_lazy_with_config(client, config))
            .map_err(|error| failure(&address, &error))?;
        Ok(Self { connection, address })
    }

    pub(crate) fn connection(&self) -> ConnectionManager {
        self.connection.clone()
    }

    /// Applies one operation. After a lost connection an idempotent operation is tried once more: the first command
    /// after the loss is the one that finds out.
    pub(crate) async fn apply(&self, scope: &Scope, name: &str, op: &Op) -> Result<Reply, Failure> {
        let mut outcome = self.invoke(scope, name, op).await;
        if let Err(error) = &outcome
            && op.is_idempotent()
            && error.is_io_error()
            && !error.is_timeout()
        {
            outcome = self.invoke(scope, name, op).await;
        }
        let value = outcome.map_err(|error| failure(&self.address, &error))?;
        read(op, value).ok_or_else(|| Failure::retry("State", format!("{}: an answer of another kind", self.address)))
    }

    /// Reads a value without any right to run: for checks from outside of an invocation.
    pub(crate) async fn peek(
        &self,
        prefix: &str,
        function: &FunctionName,
        name: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let mut get = redis::cmd("GET");
        get.arg(format!("{}:value:{name}", space(prefix, function)));
        get.query_async(&mut self.connection.clone()).await.map_err(|error| failure(&self.address, &error))
    }

    async fn invoke(&self, scope: &Scope, name: &str, op: &Op) -> Result<Value, RedisError> {
        let space = space(&scope.prefix, &scope.function);
        let holder = Digest::of(&[scope.key.as_str().as_bytes()]).to_hex();
        let holder = holder.split_at(32).0;
        let mut call = SCRIPT.prepare_invoke();
        call.key(format!("{space}:fence:{}", holder)).key(format!("{space}:value:{name}"));
        call.key(format!("{space}:once:{}:{}:{name}", holder, word(op)));
        call.arg(format!("{:020}", scope.fence.0)).arg(FENCE_TTL_MS).arg(word(op));
        match op {
            Op::Get | Op::Delete => call.arg(""),
            Op::Set { value, ttl_ms, once_ms } => call.arg(text(*once_ms)).arg(value.as_slice()).arg(text(*ttl_ms)),
            Op::Increment { by, once_ms } => call.arg(text(*once_ms)).arg(*by),
            Op::CompareAndSet { expected, value } => call
                .arg("")
                .arg(u8::from(expected.is_some()))
                .arg(expected.as_deref().unwrap_or_default())
                .arg(value.as_slice()),
            Op::Expire { ttl_ms } => call.arg("").arg(*ttl_ms),
        };
        call.invoke_async(&mut self.connection.clone()).await
    }
}

/// In front of every key of a function. The braces keep them in one slot of a Redis Cluster.
fn space(prefix: &str, function: &FunctionName) -> String {
    format!("{prefix}:{{{function}}}")
}

fn word(op: &Op) -> &'static str {
    match op {
        Op::Get => "get",
        Op::Set { .. } => "set",
        Op::Delete => "delete",
        Op::Increment { .. } => "increment",
        Op::CompareAndSet { .. } => "cas",
        Op::Expire { .. } => "expire",
    }
}

fn text(number: Option<u64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// `None` when the answer is not what the script answers.
fn read(op: &Op, value: Value) -> Option<Reply> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    match parts.next()? {
        Value::Int(0) => return Some(Reply::Stale),
        Value::Int(1) => {}
        _ => return None,
    }
    match (op, parts.next().unwrap_or(Value::Nil)) {
        (Op::Get, Value::Nil) => Some(Reply::Value(None)),
        (Op::Get, Value::BulkString(bytes)) => Some(Reply::Value(Some(bytes))),
        (Op::Increment { .. }, Value::BulkString(digits)) => {
            std::str::from_utf8(&digits).ok()?.parse().ok().map(Reply::Number)
        }
        (Op::Set { .. } | Op::Delete | Op::CompareAndSet { .. } | Op::Expire { .. }, Value::Int(changed)) => {
            Some(Reply::Done(changed > 0))
        }
        _ => None,
    }
}

/// Every error of Redis is worth another attempt: outages end, and a value of another kind may be corrected. Only the
/// latter is the handler's doing.
fn failure(address: &Address, error: &RedisError) -> Failure {
    let text = format!("use the state at {address}: {error}");
    match error.kind() {
        ErrorKind::Io => Failure::outage("StateUnreachable", text),
        _ if is_refusal(error) => Failure::outage("StateRefused", text),
        _ if is_unable(error) => Failure::outage("StateUnable", text),
        _ => Failure::retry("State", text),
    }
}

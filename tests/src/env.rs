//! The environment variables that the harness reads. Set one to test against a server of your own.

/// A Postgres URL whose user may create databases.
pub const POSTGRES_URL: &str = "WEFT_TEST_POSTGRES_URL";
/// A folder that `initdb` filled, copied by [`crate::PrivatePostgres`] instead of running `initdb` again.
pub const POSTGRES_TEMPLATE: &str = "WEFT_TEST_POSTGRES_TEMPLATE";
/// A Redis URL. Tests share its database and keep apart by key prefix.
pub const REDIS_URL: &str = "WEFT_TEST_REDIS_URL";
/// An AMQP URL of an administrator, without a vhost. Goes with [`RABBITMQ_API`].
pub const AMQP_URL: &str = "WEFT_TEST_AMQP_URL";
/// The management API of the same broker, with user and password: `http://user:password@host:port`.
pub const RABBITMQ_API: &str = "WEFT_TEST_RABBITMQ_API";
/// The folder with the built binaries. Set: they are taken as they are. Unset: [`crate::bin`] builds first.
pub const BIN_DIR: &str = "WEFT_TEST_BIN_DIR";
/// A Python interpreter with the packages of `tests/clients/requirements.txt`.
pub const PYTHON: &str = "WEFT_TEST_PYTHON";
/// A folder `node_modules` with the packages of `tests/clients/package.json`.
pub const NODE_MODULES: &str = "WEFT_TEST_NODE_MODULES";

/// A Rust function on AWS's own client, built from `tests/clients/rust`.
pub const RUST_FUNCTION: &str = "WEFT_TEST_RUST_FUNCTION";

/// The value of `name`, if it is set and not empty.
pub(crate) fn get(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

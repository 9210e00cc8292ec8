//! Identifiers. Each is a type of its own, so that a key can never be passed where a function is meant.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {problem}")]
pub struct NameError {
    what: &'static str,
    value: String,
    problem: &'static str,
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $check:expr, $problem:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The longest accepted text, in bytes.
            pub const MAX_BYTES: usize = $max;

            /// Checks and wraps a text.
            ///
            /// # Errors
            /// The text is empty, longer than [`Self::MAX_BYTES`], or holds a character that is not accepted.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                let fault = |problem| NameError {
                    what: $what,
                    value: text.chars().take(80).collect(),
                    problem,
                };
                if text.is_empty() {
                    return Err(fault("is empty"));
                }
                if text.len() > $max {
                    return Err(fault(concat!("is longer than ", stringify!($max), " bytes")));
                }
                let check: fn(&str) -> bool = $check;
                if !check(text) {
                    return Err(fault($problem));
                }
                Ok(Self(text.into()))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_name!(
    /// The name of a function as declared in `weft.toml`: `a-z`, `0-9`, `-` and `_`, starting with a letter.
    FunctionName, "function name", 64,
    |s| s.starts_with(|c: char| c.is_ascii_lowercase())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'),
    "may hold only a-z, 0-9, - and _, and starts with a letter"
);

impl FunctionName {
    /// The name under which dead letters stand that no function was bound to. No function may have it.
    pub const UNROUTED: &str = "unrouted";

    /// [`Self::UNROUTED`] as a name.
    pub fn unrouted() -> Self {
        Self(Self::UNROUTED.into())
    }

    /// Whether it is [`Self::UNROUTED`].
    pub fn is_unrouted(&self) -> bool {
        self.as_str() == Self::UNROUTED
    }
}

text_name!(
    /// An idempotency key. Unique within one function; never empty; holds no NUL (Postgres text cannot).
    Key, "key", 512,
    |s| !s.contains('\0'),
    "holds a NUL character"
);

text_name!(
    /// The name of one dispatcher's node. Two dispatchers on the same services must differ in it.
    NodeName, "node name", 128,
    |s| s.bytes().all(|b| b.is_ascii_graphic()),
    "may hold only printable ASCII without spaces"
);

/// The number that proves the right to write to an invocation. Grows with every claim of a key and is never reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence(pub i64);

/// How many times an invocation has been claimed in its present epoch, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt(pub u32);

/// How many times an invocation has been redriven, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fingerprint of an event's payload: SHA-256 over its canonical form. See [`crate::event::Event::digest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes parts in order, each preceded by its length, so that no two lists of parts collide by concatenation.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Lower-case hexadecimal, 64 characters.
    pub fn to_hex(self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

//! Addresses that may carry passwords, and do not print them.

use std::fmt;

/// A service address. `Display` and `Debug` leave out user and password; [`Address::expose`] is the only way to them.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The whole address, with credentials. For the client library only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it carries a password.
    pub fn has_password(&self) -> bool {
        url::Url::parse(&self.0).is_ok_and(|url| url.password().is_some())
    }

    /// The address without user, password and query.
    pub fn redacted(&self) -> String {
        match url::Url::parse(&self.0) {
            Ok(mut url) => {
                // Fails only for addresses that cannot hold credentials in the first place.
                let _ = url.set_username("");
                let _ = url.set_password(None);
                url.set_query(None);
                url.set_fragment(None);
                url.to_string()
            }
            Err(_) => "(an address that cannot be read)".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl std::str::FromStr for Address {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let address = Address::new("amqp://user:s3cret@host:5672/vhost?x=s3cret");
        for text in [address.to_string(), format!("{address:?}")] {
            assert!(!text.contains("s3cret"), "{text}");
            assert!(!text.contains("user"), "{text}");
            assert!(text.contains("host:5672"), "{text}");
        }
        assert!(!Address::new("s3cret nonsense").to_string().contains("s3cret"));
    }
}

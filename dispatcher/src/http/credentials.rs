//! Who may call the Invoke API: static pairs of an access key and its secret.

use std::collections::BTreeMap;
use std::fmt;

/// Access keys with their secrets. Never printed.
#[derive(Clone, Default)]
pub struct Credentials(BTreeMap<String, String>);

impl Credentials {
    /// Reads one pair a line, `ACCESS_KEY:SECRET`; empty lines and lines that begin with `#` do not count.
    ///
    /// # Errors
    /// Which line is none, or that there is no pair. Never what stands there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = BTreeMap::new();
        for (number, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let printable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            let pair = line.split_once(':').map(|(key, secret)| (key.trim(), secret.trim()));
            let Some((key, secret)) = pair.filter(|(key, secret)| printable(key) && printable(secret)) else {
                return Err(format!("line {number} is no pair ACCESS_KEY:SECRET"));
            };
            if key.contains(['/', ',']) {
                return Err(format!("the access key in line {number} holds a / or a comma"));
            }
            if pairs.insert(key.to_owned(), secret.to_owned()).is_some() {
                return Err(format!("the access key in line {number} is there already"));
            }
        }
        if pairs.is_empty() {
            return Err("it holds no pair ACCESS_KEY:SECRET".to_owned());
        }
        Ok(Self(pairs))
    }

    /// A pair to sign with.
    pub(super) fn any(&self) -> Option<(&str, &str)> {
        self.0.iter().next().map(|(key, secret)| (key.as_str(), secret.as_str()))
    }

    pub(super) fn secret(&self, access_key: &str) -> Option<&str> {
        self.0.get(access_key).map(String::as_str)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} pairs)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pairs_are_read_and_never_printed() {
        let read = Credentials::parse("# ours\n\nAKID1:s3cret/+=\r\n AKID2 : other:with:colons \n").unwrap();
        assert_eq!((read.secret("AKID1"), read.secret("AKID2")), (Some("s3cret/+="), Some("other:with:colons")));
        assert_eq!(read.secret("AKID3"), None);
        assert!(!format!("{read:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_no_pair_is_refused_by_its_line_alone() {
        for (text, place) in [
            ("", "no pair"),
            ("A:b\nnothing-s3cret", "line 2"),
            ("A:", "line 1"),
            (":s3cret", "line 1"),
            ("A:s3cret\nA:s3cret", "line 2"),
            ("A/B:s3cret", "line 1"),
        ] {
            let error = Credentials::parse(text).unwrap_err();
            assert!(error.contains(place) && !error.contains("s3cret"), "{error}");
        }
    }
}

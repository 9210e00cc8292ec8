//! Values of a function's environment: text in which `${NAME}` stands for a variable of the dispatcher's own
//! environment, and `${file:PATH}` for the text of a file. `$${` is a plain `${`; any other `$` is itself.

/// Why a value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("${{ is never closed")]
    Open,
    #[error("${{{0}}} names no variable: letters, digits and _, not starting with a digit")]
    Name(String),
    /// Only from [`expand`].
    #[error("variable {0} is not set")]
    NotSet(String),
    #[error("${{file:}} names no file")]
    NoFile,
    /// Only from [`expand`]. Why is the second; never what is in it.
    #[error("file {0:?} cannot be used: {1}")]
    File(String, String),
}

/// What a reference stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference<'a> {
    /// `${NAME}`
    Variable(&'a str),
    /// `${file:PATH}`; the path as it stands there, not empty.
    File(&'a str),
}

/// Whether a text can name an environment variable: letters, digits and `_`, not starting with a digit.
pub fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Fills in the references. `lookup` is asked for each, in the order of the text.
///
/// # Errors
/// The text has a malformed reference, or `lookup` refuses one. The error never holds a value.
pub fn expand(text: &str, lookup: impl Fn(Reference<'_>) -> Result<String, EnvError>) -> Result<String, EnvError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        let reference = &reference[2..];
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = reference;
            continue;
        }
        let (name, behind) = reference.split_once('}').ok_or(EnvError::Open)?;
        let reference = match name.strip_prefix("file:") {
            Some("") => return Err(EnvError::NoFile),
            Some(path) => Reference::File(path),
            None if is_name(name) => Reference::Variable(name),
            None => return Err(EnvError::Name(name.chars().take(80).collect())),
        };
        out.push_str(before);
        out.push_str(&lookup(reference)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// Checks the form only.
pub(super) fn check(text: &str) -> Result<(), EnvError> {
    expand(text, |_| Ok(String::new())).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(reference: Reference<'_>) -> Result<String, EnvError> {
        match reference {
            Reference::Variable("HOME_1") => Ok("/srv/${X}".to_owned()),
            Reference::Variable(name) => Err(EnvError::NotSet(name.to_owned())),
            Reference::File("/run/a secret") => Ok("s3".to_owned()),
            Reference::File(path) => Err(EnvError::File(path.to_owned(), "it is not there".to_owned())),
        }
    }

    #[test]
    fn references_are_filled_in_once_and_nothing_else_is() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${HOME_1}/x", "/srv/${X}/x"),
            ("a$b$$c", "a$b$$c"),
            ("$${HOME_1}", "${HOME_1}"),
            ("${HOME_1}${HOME_1}", "/srv/${X}/srv/${X}"),
            ("$", "$"),
            ("x-${file:/run/a secret}-${HOME_1}", "x-s3-/srv/${X}"),
            ("$${file:/run/a secret}", "${file:/run/a secret}"),
        ] {
            assert_eq!(expand(text, lookup).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn malformed_and_unknown_references_are_refused() {
        assert_eq!(expand("${A", lookup), Err(EnvError::Open));
        assert_eq!(expand("${}", lookup), Err(EnvError::Name(String::new())));
        assert_eq!(expand("${1A}", lookup), Err(EnvError::Name("1A".into())));
        assert_eq!(expand("${A B}", lookup), Err(EnvError::Name("A B".into())));
        assert_eq!(expand("${file:}", lookup), Err(EnvError::NoFile));
        assert_eq!(expand("${file:/run/a", lookup), Err(EnvError::Open));
        assert!(matches!(expand("${file:/x}", lookup), Err(EnvError::File(path, _)) if path == "/x"));
        assert_eq!(expand("${OTHER}", lookup), Err(EnvError::NotSet("OTHER".into())));
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused_without_a_panic(text in "[$${}A-Z1é :file]{0,20}") {
            let _ = expand(&text, lookup);
        }
    }
}

//! Values of a function's environment: text in which `${NAME}` stands for a variable of the dispatcher's own
//! environment. `$${` is a plain `${`; any other `$` is itself.

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
}

/// Whether a text can name an environment variable: letters, digits and `_`, not starting with a digit.
pub fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Fills in the variables. `lookup` is asked for each name, in the order of the text.
///
/// # Errors
/// The text has a malformed reference, or `lookup` does not know a name. The error never holds a value.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, EnvError> {
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
        if !is_name(name) {
            return Err(EnvError::Name(name.chars().take(80).collect()));
        }
        out.push_str(before);
        out.push_str(&lookup(name).ok_or_else(|| EnvError::NotSet(name.to_owned()))?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// Checks the form only.
pub(super) fn check(text: &str) -> Result<(), EnvError> {
    expand(text, |_| Some(String::new())).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "HOME_1").then(|| "/srv/${X}".to_owned())
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
        assert_eq!(expand("${OTHER}", lookup), Err(EnvError::NotSet("OTHER".into())));
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused_without_a_panic(text in "[$${}A-Z1é ]{0,20}") {
            let _ = expand(&text, lookup);
        }
    }
}

//! Event types and the topic patterns that select them: words between dots, as AMQP's topic exchange reads them.

/// The longest event type and pattern, in bytes: both are routing keys, which AMQP limits.
pub const MAX_BYTES: usize = 255;

/// Why a text is no event type, or no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("the event type is missing or empty")]
    NoType,
    #[error("the event type is longer than 255 bytes")]
    LongType,
    #[error("the pattern is empty")]
    NoPattern,
    #[error("the pattern is longer than 255 bytes")]
    LongPattern,
    #[error("the pattern has an empty word (two dots side by side, or a dot at an end)")]
    EmptyWord,
    #[error("the pattern has * or # as a part of a word; each stands for whole words only")]
    PartialWildcard,
    #[error("the pattern holds white space or a control character")]
    Blank,
}

/// Checks an event type: not empty, at most 255 bytes, for it is the routing key.
///
/// # Errors
/// [`TopicError::NoType`] or [`TopicError::LongType`].
pub fn check_type(kind: &str) -> Result<(), TopicError> {
    match kind.len() {
        0 => Err(TopicError::NoType),
        length if length > MAX_BYTES => Err(TopicError::LongType),
        _ => Ok(()),
    }
}

/// Checks a pattern as a function may name it. Stricter than the broker, which takes `order*` for a word that no event
/// would ever have.
///
/// # Errors
/// One of the pattern variants of [`TopicError`].
pub fn check_pattern(pattern: &str) -> Result<(), TopicError> {
    if pattern.is_empty() {
        return Err(TopicError::NoPattern);
    }
    if pattern.len() > MAX_BYTES {
        return Err(TopicError::LongPattern);
    }
    if pattern.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(TopicError::Blank);
    }
    for word in pattern.split('.') {
        if word.is_empty() {
            return Err(TopicError::EmptyWord);
        }
        if word.len() > 1 && word.contains(['*', '#']) {
            return Err(TopicError::PartialWildcard);
        }
    }
    Ok(())
}

/// Whether a routing key matches a pattern: `*` stands for exactly one word, `#` for any number of words, none too.
///
/// Takes time proportional to the product of both word counts at worst, and no memory that grows with them.
pub fn matches(pattern: &str, routing_key: &str) -> bool {
    // The broker splits an empty routing key into no words at all, so that only `#` matches it.
    let mut words = Words::new(routing_key);
    let mut parts = Words::new(pattern);
    // Where to go on when a word does not fit: behind the last `#`, one word later than at the last try. An earlier `#`
    // never has to be tried again, because the later one can take whatever it would have taken.
    let mut again: Option<(Words<'_>, Words<'_>)> = None;
    loop {
        let (word, part) = (words.peek(), parts.peek());
        match (part, word) {
            (Some("#"), _) => {
                parts.advance();
                again = Some((parts, words));
                continue;
            }
            (None, None) => return true,
            (Some(part), Some(word)) if part == "*" || part == word => {
                parts.advance();
                words.advance();
                continue;
            }
            _ => {}
        }
        let Some((behind, from)) = &mut again else { return false };
        if from.peek().is_none() {
            return false;
        }
        from.advance();
        (parts, words) = (*behind, *from);
    }
}

/// The words of a dotted text that are left.
#[derive(Clone, Copy)]
struct Words<'a>(Option<&'a str>);

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Self((!text.is_empty()).then_some(text))
    }

    fn peek(&self) -> Option<&'a str> {
        self.0.map(|rest| rest.split_once('.').map_or(rest, |(word, _)| word))
    }

    fn advance(&mut self) {
        self.0 = self.0.and_then(|rest| rest.split_once('.')).map(|(_, rest)| rest);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn naive(parts: &[&str], words: &[&str]) -> bool {
        match (parts.split_first(), words.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((&"#", rest)), _) => (0..=words.len()).any(|taken| naive(rest, &words[taken..])),
            (Some((part, parts)), Some((word, words))) => (*part == "*" || part == word) && naive(parts, words),
            (Some(_), None) => false,
        }
    }

    fn split(text: &str) -> Vec<&str> {
        if text.is_empty() { Vec::new() } else { text.split('.').collect() }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(
            parts in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "#", ""]), 0..7),
            words in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ""]), 0..8),
        ) {
            let (pattern, key) = (parts.join("."), words.join("."));
            prop_assert_eq!(matches(&pattern, &key), naive(&split(&pattern), &split(&key)), "{} {}", pattern, key);
        }

        #[test]
        fn any_text_is_matched_or_not_without_a_panic(pattern in any::<String>(), key in any::<String>()) {
            matches(&pattern, &key);
            let _ = check_pattern(&pattern);
        }

        #[test]
        fn a_checked_pattern_without_wildcards_matches_itself_only(a in "[a-z]{1,3}(\\.[a-z]{1,3}){0,3}", b in "[a-z.]{0,9}") {
            check_pattern(&a).unwrap();
            prop_assert!(matches(&a, &a));
            prop_assert_eq!(matches(&a, &b), a == b);
        }
    }

    #[test]
    fn the_broker_s_examples_match_as_the_broker_says() {
        for (pattern, key, expected) in [
            ("*.orange.*", "quick.orange.rabbit", true),
            ("*.*.rabbit", "quick.orange.rabbit", true),
            ("lazy.#", "lazy", true),
            ("lazy.#", "lazy.orange.male.rabbit", true),
            ("*.orange.*", "quick.orange.male.rabbit", false),
            ("#", "", true),
            ("*", "", false),
            ("#.#", "a", true),
            ("a.#.b.#.c", "a.b.b.x.c", true),
            ("a.#.b.#.c", "a.x.c", false),
            ("orders.placed", "orders.placed.v2", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn many_wildcards_do_not_take_exponential_time() {
        let pattern = vec!["#.a"; 60].join(".");
        assert!(!matches(&pattern, &"a.".repeat(120)));
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for (pattern, problem) in [
            ("", TopicError::NoPattern),
            ("orders..placed", TopicError::EmptyWord),
            (".orders", TopicError::EmptyWord),
            ("orders.", TopicError::EmptyWord),
            ("order*", TopicError::PartialWildcard),
            ("a.##", TopicError::PartialWildcard),
            ("a b", TopicError::Blank),
        ] {
            assert_eq!(check_pattern(pattern), Err(problem), "{pattern}");
        }
        assert_eq!(check_pattern(&"a".repeat(256)), Err(TopicError::LongPattern));
        assert_eq!(check_pattern("orders.*.#"), Ok(()));
        assert_eq!(check_type(&"a".repeat(255)), Ok(()));
        assert_eq!(check_type(&"a".repeat(256)), Err(TopicError::LongType));
        assert_eq!(check_type(""), Err(TopicError::NoType));
    }
}

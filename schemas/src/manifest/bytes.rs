//! Sizes as people write them, in powers of 1024: `512B`, `64KiB`, `256MiB`, `2GiB`.

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// What a size is written like.
pub const EXAMPLE: &str = "a number and a unit of B, KiB, MiB or GiB, such as \"256MiB\"";

/// Reads a size in bytes; `None` when the text is none. `MB` and the like are refused: they mean two things.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a size in the largest unit that divides it, so that [`parse`] reads the same back.
pub fn format(bytes: u64) -> String {
    match UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => "0B".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_mean_what_they_say() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("256MiB", 268_435_456), ("2GiB", 1 << 31)] {
            assert_eq!(parse(text), Some(bytes), "{text}");
            assert_eq!(format(bytes), text);
        }
        assert_eq!(parse("1024KiB"), Some(1 << 20));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "256", "MiB", "256MB", "256mib", "1.5GiB", "-1B", "1 MiB", "99999999999GiB"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse(&format(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in any::<String>()) {
            parse(&text);
        }
    }
}

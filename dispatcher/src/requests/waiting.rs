//! Who waits for an answer: a map that is bounded in number and in bytes. Pure.

use std::collections::HashMap;

/// What one request is called while it is under way; no two have the same.
pub(super) type RequestId = String;

/// There is no room for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Those who wait, by the name that their answer carries.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    by_id: HashMap<RequestId, (T, usize)>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl<T> Waiting<T> {
    /// `most`: requests; `most_bytes`: of their payloads together. Where nobody waits a single one may be larger.
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { by_id: HashMap::new(), bytes: 0, most, most_bytes }
    }

    /// Lets one wait.
    ///
    /// # Errors
    /// [`Full`], and nothing has changed.
    pub fn enter(&mut self, id: RequestId, bytes: usize, who: T) -> Result<(), Full> {
        let bytes_after = self.bytes.saturating_add(bytes);
        if self.by_id.len() >= self.most || (bytes_after > self.most_bytes && !self.by_id.is_empty()) {
            return Err(Full);
        }
        self.bytes = bytes_after;
        if let Some((_, before)) = self.by_id.insert(id, (who, bytes)) {
            self.bytes = self.bytes.saturating_sub(before);
        }
        Ok(())
    }

    /// Takes the one out that an answer is for; `None`: it has gone, or was answered before.
    pub fn leave(&mut self, id: &str) -> Option<T> {
        let (who, bytes) = self.by_id.remove(id)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Some(who)
    }

    /// How many wait.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_too_many_is_refused_and_room_comes_back_when_one_leaves() {
        let mut waiting = Waiting::new(2, 100);
        assert_eq!(waiting.enter("a".to_owned(), 10, 'a'), Ok(()));
        assert_eq!(waiting.enter("b".to_owned(), 90, 'b'), Ok(()));
        assert_eq!(waiting.enter("c".to_owned(), 0, 'c'), Err(Full));
        assert_eq!((waiting.leave("a"), waiting.leave("a")), (Some('a'), None));
        assert_eq!(waiting.enter("c".to_owned(), 11, 'c'), Err(Full), "one byte too many");
        assert_eq!(waiting.enter("c".to_owned(), 10, 'c'), Ok(()));
        assert_eq!(waiting.len(), 2);
    }

    #[test]
    fn a_single_large_one_is_let_in_where_nobody_waits() {
        let mut waiting = Waiting::new(2, 100);
        assert_eq!(waiting.enter("a".to_owned(), 101, ()), Ok(()));
        assert_eq!(waiting.enter("b".to_owned(), 0, ()), Err(Full));
    }

    proptest! {
        #[test]
        fn its_bounds_hold_whatever_comes_and_goes(steps in prop::collection::vec((0u8..20, 0usize..60, any::<bool>()), 0..200)) {
            let mut waiting = Waiting::new(5, 100);
            let mut model: HashMap<String, usize> = HashMap::new();
            for (id, bytes, enters) in steps {
                let id = id.to_string();
                if enters {
                    if waiting.enter(id.clone(), bytes, ()).is_ok() {
                        model.insert(id, bytes);
                    }
                } else {
                    prop_assert_eq!(waiting.leave(&id).is_some(), model.remove(&id).is_some());
                }
                prop_assert_eq!((waiting.len(), waiting.bytes), (model.len(), model.values().sum::<usize>()));
                prop_assert!(waiting.len() <= 5 && (waiting.bytes <= 100 || waiting.len() == 1));
            }
        }
    }
}

//! One run's time: what does not fit in is left out, and said.

use std::time::{Duration, Instant};

/// When a run has to be over. Copies agree.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    began: Instant,
    end: Instant,
}

impl Limit {
    /// Begins now.
    pub fn of(time: Duration) -> Self {
        let began = Instant::now();
        Self { began, end: began + time }
    }

    /// How long is left.
    pub fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// When this share of the whole time, 0 to 1, is over.
    pub fn share(self, share: f64) -> Instant {
        self.began + self.end.duration_since(self.began).mul_f64(share)
    }

    pub fn elapsed(self) -> Duration {
        self.began.elapsed()
    }
}

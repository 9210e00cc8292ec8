//! Many measurements in few numbers.

use serde::Serialize;

/// Median and spread of a few rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sorted(values);
        Self { median: quantile(&sorted, 0.5), min: quantile(&sorted, 0.0), max: quantile(&sorted, 1.0) }
    }
}

/// Percentiles of many samples.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    pub samples: usize,
    pub p50: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
}

impl Percentiles {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sorted(values);
        Self {
            samples: sorted.len(),
            p50: quantile(&sorted, 0.5),
            p99: quantile(&sorted, 0.99),
            min: quantile(&sorted, 0.0),
            max: quantile(&sorted, 1.0),
        }
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which `share` (0 to 1) of the sorted values lie, interpolated; NaN of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let (mut below, mut rest) = (0, share * sorted.len().saturating_sub(1) as f64);
    while rest >= 1.0 {
        below += 1;
        rest -= 1.0;
    }
    match (sorted.get(below), sorted.get(below + 1)) {
        (Some(low), Some(high)) => low + (high - low) * rest,
        (Some(low), None) => *low,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_do_not_depend_on_the_order_and_lie_between_the_neighbours() {
        let all = Percentiles::of((0..=100).rev().map(f64::from));
        assert_eq!((all.samples, all.min, all.p50, all.p99, all.max), (101, 0.0, 50.0, 99.0, 100.0));
        let few = Percentiles::of([4.0, 1.0]);
        assert_eq!((few.p50, few.min, few.max), (2.5, 1.0, 4.0));
        assert!((few.p99 - 3.97).abs() < 1e-9);
    }

    #[test]
    fn the_median_of_rounds_is_the_middle_one() {
        let spread = Spread::of([30.0, 10.0, 20.0]);
        assert_eq!((spread.min, spread.median, spread.max), (10.0, 20.0, 30.0));
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert!(Percentiles::of([]).p50.is_nan());
    }
}

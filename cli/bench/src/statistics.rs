//! What several rounds say together.

use serde::{Serialize, Serializer};

/// The middle one of several values, with the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    #[serde(serialize_with = "rounded")]
    pub median: f64,
    /// The least.
    #[serde(serialize_with = "rounded")]
    pub min: f64,
    /// The greatest.
    #[serde(serialize_with = "rounded")]
    pub max: f64,
}

impl Spread {
    /// Of these values; `None` if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }

    /// Of the quotients of values that were measured in the same round. What disturbed a whole round disturbed both
    /// its values, so this says more than the quotient of two medians.
    #[must_use]
    pub fn of_quotients(
        dividends: impl IntoIterator<Item = f64>,
        divisors: impl IntoIterator<Item = f64>,
    ) -> Option<Self> {
        Self::of(dividends.into_iter().zip(divisors).map(|(dividend, divisor)| dividend / divisor))
    }
}

/// To three decimals: no measurement here is better than that, and people read the JSON too.
pub(crate) fn rounded<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_of_values_has_a_middle_one() {
        assert_eq!(Spread::of([5.0, 1.0, 9.0]), Some(Spread { median: 5.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([2.0]), Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
    }

    #[test]
    fn an_even_number_of_values_has_two() {
        assert_eq!(Spread::of([4.0, 1.0, 9.0, 2.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn no_values_have_none() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of_quotients([1.0], []), None);
    }

    #[test]
    fn the_json_is_short() {
        let spread = Spread { median: 20_479.999_9, min: 1.0 / 3.0, max: 2.0 };
        let json = serde_json::to_string(&spread).expect("plain data");
        assert_eq!(json, r#"{"median":20480.0,"min":0.333,"max":2.0}"#);
    }

    #[test]
    fn quotients_are_taken_round_by_round() {
        // The second round was disturbed: twice as slow for both. The quotient of the medians would be 1.5.
        let (fast, slow) = ([40.0, 15.0, 30.0], [20.0, 10.0, 30.0]);
        let spread = Spread::of_quotients(fast, slow);
        assert_eq!(spread, Some(Spread { median: 1.5, min: 1.0, max: 2.0 }));
    }
}

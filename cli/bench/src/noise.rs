//! Whether two builds differ by more than the noise.
//!
//! Both were measured in every round, so each round gives one ratio. If there were no difference, each ratio could as
//! well be its inverse. So the signs of the logarithms are flipped in all possible ways, and it is counted how often
//! their sum is at least as far from zero as the one that was found (Fisher's randomisation test; nothing is assumed
//! about how the noise is distributed). In less than one of twenty: the difference is real.

use serde::Serialize;

use crate::statistics::rounded;

/// How often at the most chance may find such a difference.
const SIGNIFICANT: f64 = 0.05;
/// With more rounds not all ways are tried but as many as there are for these.
const EXACT_ROUNDS_MAX: usize = 14;
/// A sum that differs by rounding only is not smaller.
const ROUNDING: f64 = 1.0 - 1e-9;

/// What can be said of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether there is a difference.
    pub difference: Difference,
    /// How often chance alone would find at least such a difference.
    #[serde(serialize_with = "rounded")]
    pub chance: f64,
}

/// Whether there is a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// This build's value is greater.
    Greater,
    /// This build's value is smaller.
    Smaller,
    /// None that is larger than the noise.
    WithinNoise,
    /// With so few rounds no difference could be told from noise.
    TooFewRounds,
}

/// Judges ratios of one round each.
pub(crate) fn verdict(ratios: &[f64]) -> Verdict {
    let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let found: f64 = logarithms.iter().sum();
    let (ways, greatest) = if logarithms.len() <= EXACT_ROUNDS_MAX {
        (1_u64 << logarithms.len(), u64::MAX)
    } else {
        (1 << EXACT_ROUNDS_MAX, 0)
    };
    let mut state = 0;
    let extreme = (0..ways)
        .map(|way| if greatest == 0 { scattered(&mut state) } else { way })
        .filter(|&signs| flipped_sum(&logarithms, signs).abs() >= found.abs() * ROUNDING)
        .count();
    let chance = extreme as f64 / ways as f64;
    // The least that chance can be: as found, and all the other way round.
    let least = 2.0 / (1_u64 << logarithms.len().min(62)) as f64;
    let difference = if least > SIGNIFICANT || !found.is_finite() {
        Difference::TooFewRounds
    } else if chance > SIGNIFICANT {
        Difference::WithinNoise
    } else if found > 0.0 {
        Difference::Greater
    } else {
        Difference::Smaller
    };
    Verdict { difference, chance: chance.min(1.0) }
}

/// The sum with each sign that has a bit flipped.
fn flipped_sum(logarithms: &[f64], signs: u64) -> f64 {
    let flipped = |(at, value): (usize, &f64)| if signs >> (at % 64) & 1 == 1 { -value } else { *value };
    logarithms.iter().enumerate().map(flipped).sum()
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA'14): the same numbers in every run.
const fn scattered(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_difference_is_seen_and_noise_is_not() {
        let slower = [1.05, 1.04, 1.06, 1.05, 1.05, 1.03, 1.07, 1.05, 1.04, 1.06];
        assert_eq!(verdict(&slower).difference, Difference::Greater);
        assert!((verdict(&slower).chance - 2.0 / 1024.0).abs() < 1e-9);
        assert_eq!(verdict(&slower.map(|ratio| 1.0 / ratio)).difference, Difference::Smaller);
        let noise = [1.2, 0.8, 1.1, 0.95, 0.9, 1.05, 1.15, 0.85, 1.0, 1.02];
        assert_eq!(verdict(&noise).difference, Difference::WithinNoise);
        assert_eq!(verdict(&[1.0; 10]).difference, Difference::WithinNoise);
        assert_eq!(verdict(&[1.0; 10]).chance, 1.0);
    }

    #[test]
    fn few_rounds_prove_nothing() {
        assert_eq!(verdict(&[2.0; 5]).difference, Difference::TooFewRounds);
        assert_eq!(verdict(&[2.0; 6]).difference, Difference::Greater);
        assert_eq!(verdict(&[]).difference, Difference::TooFewRounds);
    }

    #[test]
    fn many_rounds_are_judged_by_samples() {
        let (slower, noise) = ([1.01; 40], [1.2, 1.0 / 1.2].repeat(20));
        assert_eq!(verdict(&slower).difference, Difference::Greater);
        assert_eq!(verdict(&noise).difference, Difference::WithinNoise);
    }

    #[test]
    fn equal_builds_are_seldom_called_different() {
        let mut state = 7;
        let mut ratio = || (1.0 + (scattered(&mut state) % 1000) as f64 / 1e4).ln();
        let wrong = (0..400)
            .filter(|_| {
                let ratios: Vec<f64> = (0..10).map(|_| (ratio() - ratio()).exp()).collect();
                verdict(&ratios).difference != Difference::WithinNoise
            })
            .count();
        assert!((4..=36).contains(&wrong), "{wrong} of 400, where 20 are expected");
    }
}

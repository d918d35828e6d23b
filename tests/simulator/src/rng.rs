//! A seeded random number generator, the same on every machine and with every release of every
//! crate, so that a failing run can be repeated.

use std::fmt::Write as _;
use std::time::Duration;

/// The `SplitMix64` generator (Steele, Lea, Flood 2014). Good enough for tests; never for secrets.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator seeded by `text`.
    pub(super) fn for_text(seed: u64, text: &str) -> Self {
        // FNV-1a spreads the bytes, the generator's own mixing does the rest.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, `bound`; 0 when `bound` is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// From zero to `longest`, evenly.
    pub(super) fn upto(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros.saturating_add(1)))
    }

    /// True with the probability `share`, from 0 to 1.
    pub(super) fn hits(&mut self, share: f64) -> bool {
        // 53 bits are what a double holds exactly.
        let throw = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        throw < share
    }

    /// So many hexadecimal digits.
    pub(super) fn hex(&mut self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            // Writing to a string cannot fail.
            let _ = write!(text, "{:016x}", self.next());
        }
        text.truncate(digits);
        text
    }

    /// A lower-case GUID.
    pub(super) fn guid(&mut self) -> String {
        let hex = self.hex(32);
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs of SplitMix64 for seed 1234567, from the reference implementation.
        let mut rng = Rng::new(1_234_567);
        assert_eq!(rng.next(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn throws_keep_their_bounds() {
        let mut rng = Rng::new(7);
        assert!((0..1_000).all(|_| rng.below(3) < 3));
        assert_eq!(rng.below(0), 0);
        assert!((0..1_000).all(|_| !rng.hits(0.0) && rng.hits(1.0)));
        let hits = (0..10_000).filter(|_| rng.hits(0.25)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        assert!((0..1_000).all(|_| rng.upto(Duration::from_micros(5)) <= Duration::from_micros(5)));
    }

    #[test]
    fn a_text_has_its_own_generator() {
        assert_eq!(Rng::for_text(1, "a").guid(), Rng::for_text(1, "a").guid());
        assert_ne!(Rng::for_text(1, "a").guid(), Rng::for_text(1, "b").guid());
        assert_ne!(Rng::for_text(1, "a").guid(), Rng::for_text(2, "a").guid());
        assert_eq!(Rng::new(0).hex(40).len(), 40);
    }
}

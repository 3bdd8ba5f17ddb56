//! Numbers on the command line, each with its range.

use std::ops::RangeInclusive;

/// Pixels by which a region grows or over which an edit fades: the longest side of an image.
pub const PIXELS: RangeInclusive<u64> = 0..=16384;
/// Denoising steps; what a model allows it says itself.
pub const STEPS: RangeInclusive<u64> = 1..=10_000;
/// How strongly to follow a prompt.
pub const GUIDANCE: RangeInclusive<f64> = 0.0..=100.0;
/// Factor on attention.
pub const EMPHASIS: RangeInclusive<f64> = 0.0..=100.0;
/// Relative error.
pub const TOLERANCE: RangeInclusive<f64> = 0.0..=1000.0;
/// Resolutions of a model.
pub const LEVELS: RangeInclusive<u64> = 0..=16;
/// Threads of a process.
pub const THREADS: RangeInclusive<u64> = 1..=1024;

/// A parser of whole numbers in a range.
pub fn whole(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse::<u64>() {
        Ok(number) if range.contains(&number) => Ok(number as usize),
        _ => Err(whole_range(&range)),
    }
}

/// A parser of `auto`, which is `None`, or a whole number in a range.
pub fn auto_or_whole(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Option<usize>, String> + Clone {
    move |text| match text {
        "auto" => Ok(None),
        _ => whole(range.clone())(text)
            .map(Some)
            .map_err(|message| format!("{message}, or auto")),
    }
}

/// A parser of numbers in a range; what is no number and what is infinite is in none.
pub fn decimal(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| match text.parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("it is a number from {} to {}", range.start(), range.end())),
    }
}

/// The number from which noise is made.
pub fn seed(text: &str) -> Result<u64, String> {
    text.parse::<u64>().map_err(|_| {
        let range = whole_range(&(0..=u64::MAX));
        match text.starts_with('-') {
            true => format!("{range}\n\n  tip: no seed stands for a random one; choose a number, e.g. `--seed 42`"),
            false => range,
        }
    })
}

fn whole_range(range: &RangeInclusive<u64>) -> String {
    format!("it is a whole number from {} to {}", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_are_refused_with_it() {
        let pixels = whole(PIXELS);
        assert_eq!((pixels("0"), pixels("16384")), (Ok(0), Ok(16384)));
        for wrong in [
            "16385",
            "1000000000",
            "18446744073709551615",
            "1e3",
            "-1",
            "nan",
            "",
            "8px",
            "99999999999999999999",
        ] {
            assert_eq!(
                pixels(wrong),
                Err("it is a whole number from 0 to 16384".into()),
                "{wrong}"
            );
        }
        let guidance = decimal(GUIDANCE);
        assert_eq!(
            (guidance("0"), guidance("7.5"), guidance("1e2")),
            (Ok(0.0), Ok(7.5), Ok(100.0))
        );
        for wrong in ["nan", "inf", "-inf", "infinity", "-0.1", "100.1", "1e400", "much"] {
            assert_eq!(guidance(wrong), Err("it is a number from 0 to 100".into()), "{wrong}");
        }
    }

    #[test]
    fn what_can_be_chosen_by_the_program_is_auto() {
        let levels = auto_or_whole(LEVELS);
        assert_eq!((levels("auto"), levels("3")), (Ok(None), Ok(Some(3))));
        assert_eq!(levels("17"), Err("it is a whole number from 0 to 16, or auto".into()));
    }

    #[test]
    fn a_negative_seed_is_explained() {
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert!(seed("-1").unwrap_err().contains("tip: no seed stands for a random one"));
        assert!(!seed("1.5").unwrap_err().contains("tip:"));
    }
}

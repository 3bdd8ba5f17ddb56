//! A size as a linear expression of sizes that are still unknown.

use std::collections::BTreeMap;

/// Identity of an unknown size.
pub type Unknown = usize;

/// `constant + Σ factor * unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Size {
    constant: i64,
    terms: BTreeMap<Unknown, i64>,
}

impl Size {
    /// A known size.
    pub fn known(size: usize) -> Self {
        Size {
            constant: i64::try_from(size).unwrap_or(i64::MAX),
            terms: BTreeMap::new(),
        }
    }

    /// An unknown size.
    pub fn unknown(unknown: Unknown) -> Self {
        Size {
            constant: 0,
            terms: BTreeMap::from([(unknown, 1)]),
        }
    }

    /// The number, when there is no unknown in it.
    pub fn number(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// `self + factor * other`; `None` on overflow.
    pub fn plus(&self, other: &Size, factor: i64) -> Option<Size> {
        let mut sum = self.clone();
        sum.constant = sum.constant.checked_add(other.constant.checked_mul(factor)?)?;
        for (&unknown, &times) in &other.terms {
            let term = sum.terms.entry(unknown).or_default();
            *term = term.checked_add(times.checked_mul(factor)?)?;
        }
        sum.terms.retain(|_, factor| *factor != 0);
        Some(sum)
    }

    /// Puts in what is known; `found` is indexed by unknown.
    pub fn resolved(&self, found: &[Option<usize>]) -> Option<Size> {
        let mut resolved = Size::known(0);
        resolved.constant = self.constant;
        for (&unknown, &factor) in &self.terms {
            let term = match found[unknown] {
                Some(size) => Size::known(size),
                None => Size::unknown(unknown),
            };
            resolved = resolved.plus(&term, factor)?;
        }
        Some(resolved)
    }

    /// The only unknown and its size, when the sum is zero: `None` with several unknowns, or where it is no size.
    pub fn zero_of(&self) -> Option<(Unknown, usize)> {
        let mut terms = self.terms.iter();
        let (Some((&unknown, &factor)), None) = (terms.next(), terms.next()) else {
            return None;
        };
        let wanted = self.constant.checked_neg()?;
        let is_whole = wanted % factor == 0;
        let size = usize::try_from(wanted / factor)
            .ok()
            .filter(|&size| is_whole && size > 0)?;
        Some((unknown, size))
    }
}

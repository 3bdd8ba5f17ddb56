//! Shapes: row-major dimension lists.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// The dimensions of a tensor, outermost first. A scalar has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The shape of a scalar.
    pub const fn scalar() -> Self {
        Shape(Vec::new())
    }

    /// The number of elements, or `None` when it does not fit in a `usize`.
    pub fn checked_elements(&self) -> Option<usize> {
        self.0.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
    }

    /// The number of elements; saturates, so that absurd shapes fail later allocation checks instead of wrapping.
    pub fn elements(&self) -> usize {
        self.checked_elements().unwrap_or(usize::MAX)
    }

    /// Row-major strides, in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1usize; self.0.len()];
        for axis in (0..self.0.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1].saturating_mul(self.0[axis + 1]);
        }
        strides
    }

    /// A map's `[N, C, H, W]` as `[N, H, W, C]`; other ranks stay.
    pub fn channels_last(&self) -> Self {
        match self.0[..] {
            [batch, channels, height, width] => [batch, height, width, channels].into(),
            _ => self.clone(),
        }
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<T: Into<Vec<usize>>> From<T> for Shape {
    fn from(dims: T) -> Self {
        Shape(dims.into())
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(dims: I) -> Self {
        Shape(dims.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&dims.join(","))
    }
}

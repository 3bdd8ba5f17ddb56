//! Rectangles of pixels.

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Area {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Area {
    /// The same area where every pixel is `scale` by `scale` pixels.
    pub fn scaled(&self, scale: usize) -> Self {
        Area {
            top: self.top * scale,
            left: self.left * scale,
            height: self.height * scale,
            width: self.width * scale,
        }
    }

    /// Whether the two have a pixel in common.
    pub fn meets(&self, other: &Area) -> bool {
        let meet =
            |start: usize, length: usize, other: usize, theirs: usize| start < other + theirs && other < start + length;
        meet(self.top, self.height, other.top, other.height) && meet(self.left, self.width, other.left, other.width)
    }

    /// The smallest area around both.
    pub fn around(&self, other: &Area) -> Self {
        let (top, left) = (self.top.min(other.top), self.left.min(other.left));
        Area {
            top,
            left,
            height: (self.top + self.height).max(other.top + other.height) - top,
            width: (self.left + self.width).max(other.left + other.width) - left,
        }
    }

    /// The same area as seen from `origin`, which is not below or right of it.
    pub fn within(&self, origin: &Area) -> Self {
        Area {
            top: self.top - origin.top,
            left: self.left - origin.left,
            ..*self
        }
    }
}

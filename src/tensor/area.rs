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

    /// The same area as seen from `origin`, which is not below or right of it.
    pub fn within(&self, origin: &Area) -> Self {
        Area {
            top: self.top - origin.top,
            left: self.left - origin.left,
            ..*self
        }
    }
}

//! Pictures made of the two images and the mask.

use fisec_diffusion::Image;
use fisec_tensor::Mask;

/// Differences are shown this many times stronger.
const GAIN: u32 = 4;

/// The image, greyed where it was not recomputed.
pub fn overlay(image: &Image, mask: &Mask) -> Image {
    let pixels = image.rgb.chunks_exact(3).enumerate().flat_map(|(index, pixel)| {
        let (row, column) = (index / image.width, index % image.width);
        let is_active = mask.get(row * mask.height() / image.height, column * mask.width() / image.width);
        match is_active {
            true => [pixel[0], pixel[1], pixel[2]],
            false => {
                let grey = (u32::from(pixel[0]) * 3 + u32::from(pixel[1]) * 6 + u32::from(pixel[2])) / 10;
                [(grey / 3 + 150).min(255) as u8; 3]
            }
        }
    });
    Image {
        rgb: pixels.collect(),
        ..*image
    }
}

/// Absolute differences, amplified: black where nothing changed.
pub fn difference(a: &Image, b: &Image) -> Image {
    let pairs = a.rgb.iter().zip(&b.rgb);
    let rgb = pairs
        .map(|(a, b)| (u32::from(a.abs_diff(*b)) * GAIN).min(255) as u8)
        .collect();
    Image { rgb, ..*a }
}

/// The border of the mask as an SVG path in units of latents.
pub fn outline(mask: &Mask) -> String {
    let (height, width) = (mask.height() as isize, mask.width() as isize);
    let is_active = |row: isize, column: isize| {
        (0..height).contains(&row) && (0..width).contains(&column) && mask.get(row as usize, column as usize)
    };
    let mut path = String::new();
    for row in 0..=height {
        for column in 0..=width {
            if is_active(row, column) != is_active(row - 1, column) {
                path += &format!("M{column} {row}h1");
            }
            if is_active(row, column) != is_active(row, column - 1) {
                path += &format!("M{column} {row}v1");
            }
        }
    }
    format!(
        "<svg class=\"outline\" viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\"><path d=\"{path}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_latent_has_four_sides() {
        let mask = Mask::from_fn(3, 3, |row, column| (row, column) == (1, 1));
        let outline = outline(&mask);
        for side in ["M1 1h1", "M1 2h1", "M1 1v1", "M2 1v1"] {
            assert!(outline.contains(side), "{side} in {outline}");
        }
        assert_eq!(outline.matches('M').count(), 4);
    }

    #[test]
    fn the_difference_is_black_where_nothing_changed() {
        let a = Image {
            width: 2,
            height: 1,
            rgb: vec![10, 10, 10, 50, 0, 0],
        };
        let mut b = a.clone();
        b.rgb[3] = 70;
        assert_eq!(difference(&a, &b).rgb, [0, 0, 0, 80, 0, 0]);
    }
}

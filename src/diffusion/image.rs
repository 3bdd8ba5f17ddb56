//! RGB images and their PNG form.

use std::io::Cursor;
use std::sync::OnceLock;

use fisec_runtime::is_finite;
use fisec_tensor::{Area, DType, HostTensor, Mask};
use half::f16;

use crate::DiffusionError;
use crate::png_rows::Rows;

/// An image of 8 bits per channel, row-major RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// columns
    pub width: usize,
    /// rows
    pub height: usize,
    /// `height * width * 3` bytes
    pub rgb: Vec<u8>,
}

impl Image {
    /// From a VAE decoder's output `[1, 3, H, W]`: -1 is black, 1 full; finite values outside are clamped.
    ///
    /// # Errors
    /// Fails for another shape, and when a value is not finite.
    pub fn from_tensor(tensor: &HostTensor) -> Result<Self, DiffusionError> {
        let [1, 3, height, width] = **tensor.shape() else {
            return Err(DiffusionError::Network {
                network: "VAE decoder",
                reason: format!("its image has shape [{}]", tensor.shape()),
            });
        };
        if !is_finite(tensor) {
            return Err(DiffusionError::NetworkNotFinite {
                network: "VAE decoder",
                in_half: tensor.dtype() == DType::F16,
            });
        }
        let values = tensor.to_f32_vec();
        let plane = height * width;
        let rgb = (0..plane * 3)
            .map(|index| byte(values[index % 3 * plane + index / 3]))
            .collect();
        Ok(Image { width, height, rgb })
    }

    /// From the rows of a device, f16 `[1, H, W, C]` of which the first three channels are red, green and blue.
    pub(crate) fn from_rows(rows: &HostTensor) -> Result<Self, DiffusionError> {
        let (height, width, stride) = match **rows.shape() {
            [1, height, width, stride] if stride >= 3 => (height, width, stride),
            _ => {
                let reason = format!("its image has rows of shape [{}]", rows.shape());
                return Err(DiffusionError::Network {
                    network: "VAE decoder",
                    reason,
                });
            }
        };
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        // there are fewer halves than pixels
        let bytes = BYTES.get_or_init(|| (0..=u16::MAX).map(|bits| byte(f16::from_bits(bits).to_f32())).collect());
        let halves = rows.as_pod::<u16>(DType::F16)?;
        let pixels = halves.chunks_exact(stride);
        let rgb = pixels.flat_map(|row| [row[0], row[1], row[2]].map(|half| bytes[usize::from(half)]));
        Ok(Image {
            width,
            height,
            rgb: rgb.collect(),
        })
    }

    /// The part inside an area. Panics when that reaches beyond the image.
    pub fn cropped(&self, area: &Area) -> Self {
        let lines = area.top..area.top + area.height;
        let rgb = lines.flat_map(|row| &self.rgb[3 * (row * self.width + area.left)..][..3 * area.width]);
        Image {
            width: area.width,
            height: area.height,
            rgb: rgb.copied().collect(),
        }
    }

    /// Puts another image in the place of an area of its size. Panics when that reaches beyond this one.
    pub(crate) fn replace(&mut self, area: &Area, part: &Image) {
        for (row, line) in part.rgb.chunks_exact(3 * part.width.max(1)).enumerate() {
            let first = 3 * ((area.top + row) * self.width + area.left);
            self.rgb[first..first + line.len()].copy_from_slice(line);
        }
    }

    /// `[1, 3, H, W]`, -1 to 1: what a VAE encoder takes.
    pub fn to_tensor(&self) -> HostTensor {
        let plane = self.width * self.height;
        let value = |index: usize| f32::from(self.rgb[index % plane * 3 + index / plane]) / 127.5 - 1.0;
        HostTensor::from_f32([1, 3, self.height, self.width], (0..plane * 3).map(value).collect())
    }

    /// The image as a PNG with text chunks (keyword, text).
    pub fn to_png(&self, texts: &[(&str, &str)]) -> Result<Vec<u8>, DiffusionError> {
        encode(self.width, self.height, png::ColorType::Rgb, &self.rgb, texts)
    }

    /// Reads a PNG of any colour type; transparency is dropped.
    pub fn from_png(png: &[u8]) -> Result<Self, DiffusionError> {
        let mut rows = Rows::open(Cursor::new(png)).map_err(DiffusionError::Picture)?;
        let (width, height, samples) = (rows.width(), rows.height(), rows.samples());
        let mut rgb = Vec::new();
        rgb.try_reserve_exact(width * height * 3)
            .map_err(|error| DiffusionError::Image(error.to_string()))?;
        for _ in 0..height {
            push_rgb(rows.next_row().map_err(DiffusionError::Picture)?, samples, &mut rgb);
        }
        Ok(Image { width, height, rgb })
    }
}

/// Appends a row of pixels as RGB; transparency is dropped.
pub(crate) fn push_rgb(row: &[u8], samples: usize, rgb: &mut Vec<u8>) {
    match samples {
        1 | 2 => rgb.extend(row.chunks_exact(samples).flat_map(|pixel| [pixel[0]; 3])),
        3 => rgb.extend_from_slice(row),
        _ => rgb.extend(
            row.chunks_exact(samples)
                .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]),
        ),
    }
}

/// -1 is 0 and 1 is 255, rounded as diffusers does.
fn byte(value: f32) -> u8 {
    ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// A mask as a grey PNG of its own size: white is active.
pub fn mask_to_png(mask: &Mask) -> Result<Vec<u8>, DiffusionError> {
    let grey: Vec<u8> = mask.bits().iter().map(|&active| if active { 255 } else { 0 }).collect();
    encode(mask.width(), mask.height(), png::ColorType::Grayscale, &grey, &[])
}

fn encode(
    width: usize,
    height: usize,
    color: png::ColorType,
    pixels: &[u8],
    texts: &[(&str, &str)],
) -> Result<Vec<u8>, DiffusionError> {
    let failed = |error: png::EncodingError| DiffusionError::Image(error.to_string());
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    // an edit has a quarter of a second for everything: larger files are the price
    encoder.set_compression(png::Compression::Fast);
    for (keyword, text) in texts {
        encoder
            .add_itxt_chunk((*keyword).to_string(), (*text).to_string())
            .map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

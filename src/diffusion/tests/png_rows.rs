//! Pictures and masks from untrusted PNGs: the same result as at once, and memory in proportion to it.

use std::io::{Cursor, Write};

use fisec_diffusion::mask::fit_user_mask;
use fisec_diffusion::{DiffusionError, Image, PngError, mask_from_png, mask_to_png, read_user_mask};
use fisec_tensor::Mask;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;

/// A PNG written by hand, so that its header may say anything.
struct Raw {
    bytes: Vec<u8>,
}

impl Raw {
    fn new(width: u32, height: u32, depth: u8, color: u8, interlaced: bool) -> Self {
        let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
        header.extend([depth, color, 0, 0, u8::from(interlaced)]);
        let raw = Raw {
            bytes: b"\x89PNG\r\n\x1a\n".to_vec(),
        };
        raw.chunk(b"IHDR", &header)
    }

    fn chunk(mut self, kind: &[u8; 4], data: &[u8]) -> Self {
        let body = [kind, data].concat();
        self.bytes.extend((data.len() as u32).to_be_bytes());
        self.bytes.extend(&body);
        self.bytes.extend(crc(&body).to_be_bytes());
        self
    }

    fn pixels(self, rows: &[u8]) -> Vec<u8> {
        self.chunk(b"IDAT", &packed(rows)).chunk(b"IEND", b"").bytes
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                0xedb8_8320 ^ (crc >> 1)
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Rows of `line` bytes, each behind its filter's number.
fn unfiltered(pixels: &[u8], line: usize) -> Vec<u8> {
    pixels.chunks_exact(line).flat_map(|row| [&[0], row].concat()).collect()
}

/// The pixels of a grey picture in the order of Adam7.
fn interlaced(pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
    const PASSES: [[usize; 4]; 7] = [
        [0, 0, 8, 8],
        [4, 0, 8, 8],
        [0, 4, 4, 8],
        [2, 0, 4, 4],
        [0, 2, 2, 4],
        [1, 0, 2, 2],
        [0, 1, 1, 2],
    ];
    let mut bytes = Vec::new();
    for [left, top, across, down] in PASSES.into_iter().filter(|[left, ..]| *left < width) {
        for row in (top..height).step_by(down) {
            bytes.push(0);
            bytes.extend((left..width).step_by(across).map(|column| pixels[row * width + column]));
        }
    }
    bytes
}

fn fitted(png: &[u8], width: usize, height: usize) -> Result<Image, DiffusionError> {
    Ok(Image::read_fitted(Cursor::new(png), width, height)?.0)
}

fn refused(png: &[u8]) -> PngError {
    let mask = read_user_mask(Cursor::new(png), (8, 8), (64, 64)).unwrap_err();
    assert!(mask.hint().is_some(), "{mask}");
    match fitted(png, 64, 64).unwrap_err() {
        DiffusionError::Picture(error) => error,
        other => panic!("{other}"),
    }
}

fn picture() -> impl Strategy<Value = Image> {
    (1usize..40, 1usize..40).prop_flat_map(|(width, height)| {
        let rgb = prop::collection::vec(any::<u8>(), width * height * 3);
        rgb.prop_map(move |rgb| Image { width, height, rgb })
    })
}

proptest! {
    #[test]
    fn a_picture_is_fitted_while_it_is_read(picture in picture(), width in 1usize..24, height in 1usize..24) {
        let png = picture.to_png(&[]).unwrap();
        let read = Image::read_fitted(Cursor::new(&png), width, height).unwrap();
        prop_assert_eq!(read, picture.fitted(width, height));
    }

    #[test]
    fn a_mask_is_fitted_while_it_is_read(
        height in 1usize..40,
        latent in (1usize..12, 1usize..12),
        scale in 1usize..3,
        seed in any::<u64>(),
        share in 0u64..5,
    ) {
        let image = (latent.0 * 8, latent.1 * 8);
        let width = (height * image.1).div_ceil(image.0).max(1) * scale;
        let height = height * scale;
        let mask = Mask::from_fn(height, width, |row, column| {
            (row as u64 * 31 + column as u64 * 17).wrapping_mul(seed | 1) >> 32 & 7 < share
        });
        let png = mask_to_png(&mask).unwrap();
        let read = read_user_mask(Cursor::new(&png), latent, image);
        match (read, fit_user_mask(&mask, latent, image)) {
            (Ok(read), Ok(fitted)) => prop_assert_eq!(read, fitted),
            (Err(read), Err(fitted)) => prop_assert_eq!(read.to_string(), fitted.to_string()),
            (read, fitted) => prop_assert!(false, "{:?} and {:?}", read, fitted),
        }
    }

    #[test]
    fn no_bytes_panic(mut png in picture().prop_map(|picture| picture.to_png(&[]).unwrap()), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let place = at.index(png.len());
        png[place] = byte;
        let _ = fitted(&png, 8, 8);
        png.truncate(cut.index(png.len()));
        let _ = fitted(&png, 8, 8);
        let _ = read_user_mask(Cursor::new(&png), (4, 4), (32, 32));
    }
}

#[test]
fn every_colour_type_and_depth_is_read() {
    let grey: Vec<u8> = (0..64u8).map(|value| value * 4).collect();
    let expected = Image {
        width: 8,
        height: 8,
        rgb: grey.iter().flat_map(|&value| [value; 3]).collect(),
    };
    let sixteen: Vec<u8> = grey.iter().flat_map(|&value| [value, 77]).collect();
    let alpha: Vec<u8> = grey.iter().flat_map(|&value| [value, 200]).collect();
    let rgba: Vec<u8> = grey.iter().flat_map(|&value| [value, value, value, 9]).collect();
    let palette: Vec<u8> = (0..64u8).flat_map(|index| [index * 4; 3]).collect();
    let indices: Vec<u8> = (0..64).collect();
    let pngs = [
        Raw::new(8, 8, 8, 0, false).pixels(&unfiltered(&grey, 8)),
        Raw::new(8, 8, 16, 0, false).pixels(&unfiltered(&sixteen, 16)),
        Raw::new(8, 8, 8, 4, false).pixels(&unfiltered(&alpha, 16)),
        Raw::new(8, 8, 8, 6, false).pixels(&unfiltered(&rgba, 32)),
        Raw::new(8, 8, 8, 3, false)
            .chunk(b"PLTE", &palette)
            .pixels(&unfiltered(&indices, 8)),
        Raw::new(8, 8, 8, 0, true).pixels(&interlaced(&grey, 8, 8)),
    ];
    for png in pngs {
        assert_eq!(fitted(&png, 8, 8).unwrap(), expected);
        assert_eq!(Image::from_png(&png).unwrap(), expected);
    }
}

#[test]
fn the_header_bounds_what_is_read() {
    for (width, height) in [
        (20_000, 20_000),
        (18_000, 18_000),
        (1 << 30, 1 << 30),
        (i32::MAX as u32, 1),
        (1 << 17, 1),
    ] {
        for color in [0, 2, 6] {
            let png = Raw::new(width, height, 8, color, false).pixels(&[0]);
            assert_eq!(refused(&png), PngError::TooLarge { width, height });
            assert!(matches!(
                mask_from_png(&png),
                Err(DiffusionError::MaskImage(PngError::TooLarge { .. }))
            ));
        }
    }
    let interlaced = Raw::new(10_000, 10_000, 8, 0, true).pixels(&[0]);
    assert_eq!(
        refused(&interlaced),
        PngError::Interlaced {
            width: 10_000,
            height: 10_000
        }
    );
}

#[test]
fn headers_that_lie_and_files_that_end_are_refused() {
    let row = |count: usize| vec![0u8; count];
    let whole = Raw::new(128, 128, 8, 0, false).pixels(&row(129 * 128));
    assert!(fitted(&whole, 8, 8).is_ok());
    let cases = [
        Raw::new(128, 128, 8, 0, false).pixels(&row(50)),
        Raw::new(128, 128, 8, 0, true).pixels(&row(50)),
        Raw::new(0, 0, 8, 0, false).pixels(&[]),
        Raw::new(8, 8, 7, 0, false).pixels(&row(72)),
        Raw::new(8, 8, 8, 3, false).pixels(&row(72)),
        Raw::new(8, 8, 8, 0, false).bytes,
        whole[..whole.len() / 2].to_vec(),
        whole[..10].to_vec(),
        Vec::new(),
    ];
    for png in cases {
        assert!(
            matches!(refused(&png), PngError::Damaged(_)),
            "{:?}",
            &png[..png.len().min(40)]
        );
    }
}

#[test]
fn texts_and_profiles_are_not_unpacked() {
    let bomb = packed(&vec![0u8; 1 << 26]);
    let rows = unfiltered(&[255; 64], 8);
    for (kind, head) in [
        (b"zTXt", b"k\0\0".as_slice()),
        (b"iCCP", b"k\0\0"),
        (b"iTXt", b"k\0\x01\0\0\0"),
    ] {
        let png = Raw::new(8, 8, 8, 0, false)
            .chunk(kind, &[head, &bomb].concat())
            .pixels(&rows);
        assert_eq!(fitted(&png, 8, 8).unwrap().rgb, [255; 192]);
        assert!(read_user_mask(Cursor::new(&png), (8, 8), (64, 64)).is_ok());
    }
}

#[test]
fn other_formats_are_named_with_what_to_do() {
    let starts: [(&[u8], &str); 5] = [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"GIF89a", "GIF"),
        (b"BM\x36\0\0\0", "BMP"),
        (b"\0\0\0\x20ftypheic", "HEIC or AVIF"),
    ];
    for (start, name) in starts {
        let error = refused(start);
        assert_eq!(error, PngError::Other(name));
        assert!(error.hint().unwrap().contains("convert it to a PNG"));
    }
}

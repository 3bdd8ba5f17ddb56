//! PNGs row by row. What a picture may take is known from its header, before memory is taken for it.

use std::io::{BufRead, Seek};

use png::{Decoder, DecodingError, Reader, Transformations};
use thiserror::Error;

/// Pixels of the largest picture or mask that is read: 16384 × 16384, more than cameras make.
pub const LARGEST_PIXELS: u64 = 1 << 28;
/// Longest side of a picture or mask, pixels.
pub const LONGEST_SIDE: u32 = 1 << 16;
/// Pixels of the largest interlaced one: its rows come in no order, so all of them are kept.
const LARGEST_INTERLACED: u64 = 1 << 26;

/// How other pictures begin, and what they are called.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftyp", "HEIC or AVIF"),
];

/// Why a picture cannot be read as a PNG.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PngError {
    /// It is a picture of another format.
    #[error("it is a {0} picture, not a PNG")]
    Other(&'static str),
    /// Its header names more pixels than are read.
    #[error(
        "it has {width}x{height} pixels; the largest that is read has {most}, and {longest} along a side",
        most = LARGEST_PIXELS,
        longest = LONGEST_SIDE
    )]
    TooLarge {
        /// columns
        width: u32,
        /// rows
        height: u32,
    },
    /// It is interlaced, and too large for that.
    #[error("it is interlaced and has {width}x{height} pixels; the largest such one that is read has {most}", most = LARGEST_INTERLACED)]
    Interlaced {
        /// columns
        width: u32,
        /// rows
        height: u32,
    },
    /// It is damaged or no PNG.
    #[error("{0}")]
    Damaged(String),
}

impl PngError {
    /// What the user can do, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            PngError::Other(_) => Some("convert it to a PNG first, e.g. `magick PICTURE.jpg PICTURE.png`"),
            PngError::TooLarge { .. } => {
                Some("scale it down first, e.g. `magick LARGE.png -resize 4096x4096 SMALL.png`")
            }
            PngError::Interlaced { .. } => Some("save it without interlacing"),
            PngError::Damaged(_) => None,
        }
    }
}

impl From<DecodingError> for PngError {
    fn from(error: DecodingError) -> Self {
        PngError::Damaged(error.to_string())
    }
}

/// A PNG of any colour type, read from the top.
pub(crate) struct Rows<R: BufRead + Seek> {
    reader: Reader<R>,
    width: usize,
    height: usize,
    samples: usize,
    /// all rows, where they come in no order
    whole: Option<Vec<u8>>,
    next: usize,
}

impl<R: BufRead + Seek> Rows<R> {
    /// Reads what precedes the pixels: texts and colour profiles, which may unpack to anything, are skipped.
    pub fn open(mut source: R) -> Result<Self, PngError> {
        if let Some(name) = other_format(&mut source) {
            return Err(PngError::Other(name));
        }
        let mut decoder = Decoder::new(source);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        decoder.set_transformations(Transformations::normalize_to_color8());
        let header = decoder.read_header_info()?;
        let (width, height, interlaced) = (header.width, header.height, header.interlaced);
        let pixels = u64::from(width) * u64::from(height);
        if pixels > LARGEST_PIXELS || width.max(height) > LONGEST_SIDE {
            return Err(PngError::TooLarge { width, height });
        }
        if interlaced && pixels > LARGEST_INTERLACED {
            return Err(PngError::Interlaced { width, height });
        }
        let mut reader = decoder.read_info()?;
        let frame = reader.info().frame_control.map(|frame| (frame.width, frame.height));
        if frame.is_some_and(|frame| frame != (width, height)) {
            return Err(PngError::Damaged("its first frame is not the whole picture".into()));
        }
        let whole = interlaced.then(|| whole(&mut reader)).transpose()?;
        Ok(Rows {
            samples: reader.output_color_type().0.samples(),
            reader,
            width: width as usize,
            height: height as usize,
            whole,
            next: 0,
        })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Samples of a pixel: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The next row, `width * samples` bytes. Fails behind the last one.
    pub fn next_row(&mut self) -> Result<&[u8], PngError> {
        let length = self.width * self.samples;
        let truncated = || PngError::Damaged("it ends before its last row".into());
        let at = self.next;
        self.next += 1;
        if let Some(whole) = &self.whole {
            return whole.get(at * length..(at + 1) * length).ok_or_else(truncated);
        }
        match self.reader.next_row()? {
            Some(row) => Some(row.data()).filter(|row| row.len() == length).ok_or_else(truncated),
            None => Err(truncated()),
        }
    }
}

fn whole<R: BufRead + Seek>(reader: &mut Reader<R>) -> Result<Vec<u8>, PngError> {
    let too_large = || PngError::Damaged("there is not enough memory for it".into());
    let size = reader.output_buffer_size().ok_or_else(too_large)?;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(size).map_err(|_| too_large())?;
    pixels.resize(size, 0);
    let frame = reader.next_frame(&mut pixels)?;
    pixels.truncate(frame.buffer_size());
    Ok(pixels)
}

/// The format that the first bytes are of, when it is another one.
fn other_format<R: BufRead>(source: &mut R) -> Option<&'static str> {
    let start = source.fill_buf().ok()?;
    let found = OTHERS
        .iter()
        .find(|(at, magic, _)| start.get(*at..at + magic.len()) == Some(*magic));
    found.map(|(.., name)| *name)
}

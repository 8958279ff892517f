//! Pictures without functions: everything here can be tested by itself.

use std::io::{BufRead, Seek, Write};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{
    ColorType, DynamicImage, ExtendedColorType, ImageBuffer, ImageDecoder, ImageEncoder, ImageError, ImageFormat,
    ImageReader, ImageResult, Limits, Rgb, imageops,
};

/// The most pixels that a picture may have. A file of a few bytes can claim any number.
const PIXELS_MAX: u64 = 12_000_000;

/// Bytes per pixel: red, green, blue.
const DEPTH: usize = 3;

/// Why a picture is not accepted: always the client's matter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Unknown,
    TooLarge,
    Broken(String),
}

impl Problem {
    /// The HTTP status that says so.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Unknown => 415,
            Self::TooLarge => 413,
            Self::Broken(_) => 422,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => write!(f, "the body is neither a JPEG nor a PNG"),
            Self::TooLarge => write!(f, "the picture has more than {PIXELS_MAX} pixels"),
            Self::Broken(error) => write!(f, "the picture is broken: {error}"),
        }
    }
}

impl From<ImageError> for Problem {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            ImageError::Unsupported(_) => Self::Unknown,
            error => Self::Broken(error.to_string()),
        }
    }
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Size {
    /// How many bytes the pixels take.
    pub(crate) fn bytes(self) -> usize {
        self.width as usize * self.height as usize * DEPTH
    }

    /// As wide as `width`, with the same aspect, and never larger than it is.
    pub(crate) fn scaled_to(self, width: u32) -> Self {
        if width >= self.width {
            return self;
        }
        let height = u64::from(self.height) * u64::from(width) / u64::from(self.width);
        Self { width, height: (height as u32).max(1) }
    }
}

/// A picture whose head has been read.
pub(crate) struct Opened<'a> {
    decoder: Box<dyn ImageDecoder + 'a>,
    size: Size,
}

impl<'a> Opened<'a> {
    /// Reads the head and checks what it claims.
    pub(crate) fn new(bytes: impl BufRead + Seek + 'a) -> Result<Self, Problem> {
        let mut reader = ImageReader::new(bytes).with_guessed_format().map_err(ImageError::IoError)?;
        if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
            return Err(Problem::Unknown);
        }
        let mut limits = Limits::default();
        limits.max_alloc = Some(PIXELS_MAX * 16);
        reader.limits(limits);
        let decoder = Box::new(reader.into_decoder()?);
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > PIXELS_MAX {
            return Err(Problem::TooLarge);
        }
        Ok(Self { decoder, size: Size { width, height } })
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Decodes to memory of exactly [`Size::bytes`].
    pub(crate) fn decode_into(self, pixels: &mut [u8]) -> Result<(), Problem> {
        if self.decoder.color_type() == ColorType::Rgb8 {
            return Ok(self.decoder.read_image(pixels)?);
        }
        pixels.copy_from_slice(&self.decode()?);
        Ok(())
    }

    /// Decodes to memory of its own.
    pub(crate) fn decode(self) -> Result<Vec<u8>, Problem> {
        Ok(DynamicImage::from_decoder(self.decoder)?.into_rgb8().into_raw())
    }
}

/// Makes a picture smaller; `None` if `pixels` is not a picture of that size.
pub(crate) fn scale(pixels: &[u8], from: Size, to: Size) -> Option<Vec<u8>> {
    let picture = ImageBuffer::<Rgb<u8>, _>::from_raw(from.width, from.height, pixels)?;
    Some(imageops::thumbnail(&picture, to.width, to.height).into_raw())
}

/// What the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
        }
    }

    /// More than a file of that many pixels takes: noise, which does not compress, and the file's own structure.
    pub(crate) fn bytes_max(self, size: Size) -> usize {
        size.bytes() + size.bytes() / 8 + 4096
    }
}

/// Writes pixels as a file.
pub(crate) fn encode(pixels: &[u8], size: Size, format: Format, into: &mut dyn Write) -> ImageResult<()> {
    let Size { width, height } = size;
    match format {
        Format::Jpeg => {
            JpegEncoder::new_with_quality(into, 85).write_image(pixels, width, height, ExtendedColorType::Rgb8)
        }
        Format::Png => PngEncoder::new(into).write_image(pixels, width, height, ExtendedColorType::Rgb8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const SIZE: Size = Size { width: 40, height: 30 };

    /// Left half red, right half blue.
    fn two_halves() -> Vec<u8> {
        (0..SIZE.height)
            .flat_map(|_| (0..SIZE.width).flat_map(|x| if x < 20 { [255, 0, 0] } else { [0, 0, 255] }))
            .collect()
    }

    fn file(pixels: &[u8], size: Size, format: Format) -> Vec<u8> {
        let mut file = Vec::new();
        encode(pixels, size, format, &mut file).expect("encoded");
        assert!(file.len() <= format.bytes_max(size));
        file
    }

    fn open(file: Vec<u8>) -> Result<Opened<'static>, Problem> {
        Opened::new(Cursor::new(file))
    }

    #[test]
    fn both_formats_survive_a_round_trip() {
        let opened = open(file(&two_halves(), SIZE, Format::Png)).expect("a PNG");
        assert_eq!(opened.size(), SIZE);
        let mut pixels = vec![0; SIZE.bytes()];
        opened.decode_into(&mut pixels).expect("decoded");
        assert_eq!(pixels, two_halves(), "PNG loses nothing");

        let pixels = open(file(&two_halves(), SIZE, Format::Jpeg)).expect("a JPEG").decode().expect("decoded");
        assert!(pixels[0] > 200 && pixels[2] < 60, "JPEG loses little: {:?}", &pixels[..3]);
    }

    #[test]
    fn other_colours_become_red_green_and_blue() {
        let mut file = Vec::new();
        PngEncoder::new(&mut file).write_image(&[7, 9], 2, 1, ExtendedColorType::L8).expect("encoded");
        let mut pixels = [0; 6];
        open(file).expect("a grey PNG").decode_into(&mut pixels).expect("decoded");
        assert_eq!(pixels, [7, 7, 7, 9, 9, 9]);
    }

    #[test]
    fn noise_fits_the_reserved_memory() {
        let size = Size { width: 200, height: 200 };
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(size.bytes())
        .collect();
        file(&noise, size, Format::Jpeg);
        file(&noise, size, Format::Png);
    }

    #[test]
    fn what_is_no_picture_is_refused_with_a_reason() {
        let status = |file: Vec<u8>| {
            let mut pixels = vec![0; SIZE.bytes()];
            open(file).and_then(|opened| opened.decode_into(&mut pixels)).expect_err("refused").status()
        };
        assert_eq!(status(b"hello".to_vec()), 415);
        assert_eq!(status(b"GIF89a\x01\0\x01\0\0\0\0".to_vec()), 415);
        assert_eq!(status(Vec::new()), 415);
        let whole = file(&two_halves(), SIZE, Format::Png);
        assert_eq!(status(whole[..whole.len() / 2].to_vec()), 422);
    }

    #[test]
    fn a_small_file_that_claims_to_be_huge_is_refused() {
        let mut huge = file(&two_halves(), SIZE, Format::Png);
        huge[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        huge[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let checksum = crc32(&huge[12..29]);
        huge[29..33].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(open(huge).err().expect("refused"), Problem::TooLarge);
    }

    #[test]
    fn thumbnails_keep_the_aspect_and_the_colours() {
        assert_eq!(SIZE.scaled_to(20), Size { width: 20, height: 15 });
        assert_eq!(SIZE.scaled_to(41), SIZE, "never larger");
        assert_eq!(Size { width: 1000, height: 1 }.scaled_to(10), Size { width: 10, height: 1 });
        let small = SIZE.scaled_to(4);
        let pixels = scale(&two_halves(), SIZE, small).expect("a picture");
        assert_eq!(pixels.len(), small.bytes());
        assert_eq!((&pixels[..3], &pixels[9..12]), (&[255, 0, 0][..], &[0, 0, 255][..]));
        assert_eq!(scale(&[0; 5], SIZE, small), None);
    }

    /// PNG's checksum, to forge a head.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }
}

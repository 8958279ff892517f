//! A picture that is the same on every machine, so that nobody has to bring one; and a look at what became of it.

use anyhow::{Context, Result};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{Rgb, RgbImage};
use std::fmt::Write;
use std::path::Path;

/// Width and height in pixels.
const SIZE: (u32, u32) = (1600, 1200);
/// JPEG's quality, of 100.
const QUALITY: u8 = 90;
/// How wide the preview is, in characters.
const PREVIEW_COLUMNS: u32 = 64;

/// Circles: centre and radius in pixels, and colour.
const CIRCLES: [((i64, i64), i64, [u8; 3]); 4] = [
    ((480, 420), 260, [250, 200, 60]),
    ((1100, 700), 340, [40, 120, 110]),
    ((820, 360), 120, [235, 235, 225]),
    ((1290, 280), 90, [200, 60, 70]),
];

/// Draws it; the answer is a JPEG file.
pub(super) fn draw() -> Result<Vec<u8>> {
    let image = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| Rgb(color(x, y)));
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, QUALITY).encode_image(&image).context("cannot encode the picture")?;
    Ok(file)
}

/// The topmost circle, or a gradient from corner to corner.
fn color(x: u32, y: u32) -> [u8; 3] {
    let is_inside = |(center_x, center_y): (i64, i64), radius: i64| {
        let (across, down) = (i64::from(x) - center_x, i64::from(y) - center_y);
        across * across + down * down <= radius * radius
    };
    let circle = CIRCLES.iter().rev().find(|(center, radius, _)| is_inside(*center, *radius));
    let gradient = [shade(x, SIZE.0), shade(y, SIZE.1), shade(SIZE.0 - x + y, SIZE.0 + SIZE.1)];
    circle.map_or(gradient, |(.., color)| *color)
}

/// How far along something is, from 0 to 255.
fn shade(at: u32, of: u32) -> u8 {
    u8::try_from(at * 255 / of).unwrap_or(u8::MAX)
}

/// A file's path, dimensions and size.
pub(super) fn describe(path: &Path, file: &[u8]) -> Result<String> {
    let image = image::load_from_memory(file).with_context(|| format!("{} is no picture", path.display()))?;
    Ok(format!("{} ({}×{}, {} KiB)", path.display(), image.width(), image.height(), file.len().div_ceil(1024)))
}

/// The picture in characters that are two pixels each, for terminals with 24-bit colour.
pub(super) fn preview(file: &[u8]) -> Result<String> {
    let image = image::load_from_memory(file).context("the answer is no picture")?;
    let rows = (PREVIEW_COLUMNS * image.height() / image.width().max(1)).next_multiple_of(2).max(2);
    let small = image.resize_exact(PREVIEW_COLUMNS, rows, FilterType::Triangle).to_rgb8();
    let mut text = String::new();
    for y in (0..rows).step_by(2) {
        for x in 0..PREVIEW_COLUMNS {
            let (Rgb([r, g, b]), Rgb([under_r, under_g, under_b])) = (small[(x, y)], small[(x, y + 1)]);
            // The upper half has the foreground's colour, the lower half the background's.
            write!(text, "\u{1b}[38;2;{r};{g};{b};48;2;{under_r};{under_g};{under_b}m▀")?;
        }
        text.push_str("\u{1b}[0m\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_a_jpeg_of_its_size_and_always_the_same() {
        let file = draw().expect("drawn");
        assert_eq!(file, draw().expect("drawn again"));
        let image = image::load_from_memory(&file).expect("decodes");
        assert_eq!((image.width(), image.height()), SIZE);
    }

    #[test]
    fn the_preview_has_two_pixels_a_character() {
        let text = preview(&draw().expect("drawn")).expect("previewed");
        assert_eq!(text.lines().count(), 24);
        assert_eq!(text.matches('▀').count(), 24 * 64);
    }
}

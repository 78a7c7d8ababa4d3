//! The gate of pictures: what is stored was decoded here under limits and encoded anew, so that no byte of the sender's
//! file reaches a node or another browser.

use std::io::Cursor;

use flowai_actors::limits::{IMAGE_PIXELS_MAX, IMAGE_SIDE_PX_MAX, IMAGE_SIDE_PX_MIN};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

/// What a decoder may hold beside the pixels.
const DECODER_BYTES_MAX: u64 = 256 << 20;
/// Pixels as the file has them; turning them upright and dropping transparency hold them twice for a moment. 40 million
/// pixels of 8 bits with transparency fit.
const PIXEL_BYTES_MAX: u64 = 4 * IMAGE_PIXELS_MAX;

/// A picture as it is stored: PNG, RGB, upright, without metadata.
pub struct Picture {
    pub png: Vec<u8>,
    pub width: u32,
    pub height: u32,
}

/// Why a picture is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum PictureError {
    #[error("is no png, jpeg or webp")]
    NotAPicture,
    #[error("cannot be read as {format}: {reason}")]
    Damaged {
        format: &'static str,
        reason: String,
    },
    #[error("has 0 pixels ({width}x{height})")]
    Empty { width: u32, height: u32 },
    #[error("is {width}x{height} pixels; each side must be at least {IMAGE_SIDE_PX_MIN}")]
    SideTooShort { width: u32, height: u32 },
    #[error("is {width}x{height} pixels; each side must be at most {IMAGE_SIDE_PX_MAX}")]
    SideTooLong { width: u32, height: u32 },
    #[error("is {width}x{height} pixels; at most {IMAGE_PIXELS_MAX} pixels are read")]
    TooManyPixels { width: u32, height: u32 },
    #[error(
        "has {bytes} bytes of pixels; at most {PIXEL_BYTES_MAX} are read: save it with 8 bits a channel"
    )]
    TooManyBytes { bytes: u64 },
    #[error("cannot be written anew: {0}")]
    Encode(String),
}

/// Decodes a picture of a user and encodes it anew. Its size is judged by the header, before any pixel is decoded. Of an
/// animation the first frame counts; transparency is dropped, as the reference pipeline drops it.
pub(super) fn read_picture(bytes: &[u8]) -> Result<Picture, PictureError> {
    let (format, name) = format_of(bytes).ok_or(PictureError::NotAPicture)?;
    let damaged = |reason: image::ImageError| PictureError::Damaged {
        format: name,
        reason: reason.to_string(),
    };
    if let Some((width, height)) = png_size(bytes).filter(|_| format == ImageFormat::Png) {
        // The decoder has no name for a side of 0.
        check_size(width, height)?;
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(IMAGE_SIDE_PX_MAX);
    limits.max_image_height = Some(IMAGE_SIDE_PX_MAX);
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    let size = ImageReader::with_format(Cursor::new(bytes), format)
        .into_dimensions()
        .map_err(damaged)?;
    check_size(size.0, size.1)?;

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    // The decoder counts what it needs itself, and not the pixels that it is asked to fill.
    let pixel_bytes = decoder.total_bytes();
    if pixel_bytes > PIXEL_BYTES_MAX {
        return Err(PictureError::TooManyBytes { bytes: pixel_bytes });
    }
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();

    let mut png = Vec::new();
    // Stored once, read once by a node: time counts more than the last percent of size.
    let encoder =
        PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    picture
        .write_with_encoder(encoder)
        .map_err(|error| PictureError::Encode(error.to_string()))?;
    Ok(Picture {
        png,
        width: picture.width(),
        height: picture.height(),
    })
}

fn check_size(width: u32, height: u32) -> Result<(), PictureError> {
    if width == 0 || height == 0 {
        return Err(PictureError::Empty { width, height });
    }
    if width > IMAGE_SIDE_PX_MAX || height > IMAGE_SIDE_PX_MAX {
        return Err(PictureError::SideTooLong { width, height });
    }
    if width < IMAGE_SIDE_PX_MIN || height < IMAGE_SIDE_PX_MIN {
        return Err(PictureError::SideTooShort { width, height });
    }
    if u64::from(width) * u64::from(height) > IMAGE_PIXELS_MAX {
        return Err(PictureError::TooManyPixels { width, height });
    }
    Ok(())
}

/// By magic bytes alone: names and content types are the sender's claims.
fn format_of(bytes: &[u8]) -> Option<(ImageFormat, &'static str)> {
    match bytes {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some((ImageFormat::Png, "png")),
        [0xff, 0xd8, 0xff, ..] => Some((ImageFormat::Jpeg, "jpeg")),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some((ImageFormat::WebP, "webp")),
        _ => None,
    }
}

/// Width and height of a PNG's first chunk, which must be its header.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(12..24)?.strip_prefix(b"IHDR")?;
    let (width, height) = header.split_first_chunk::<4>()?;
    let height = height.first_chunk::<4>()?;
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(*height)))
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};

    use super::*;

    fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture
            .write_to(&mut Cursor::new(&mut bytes), format)
            .unwrap();
        bytes
    }

    fn picture() -> RgbImage {
        RgbImage::from_fn(6, 4, |x, y| Rgb([x as u8 * 40, y as u8 * 60, 7]))
    }

    #[test]
    fn pixels_survive_and_metadata_does_not() {
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let read = read_picture(&encoded(&picture(), format)).unwrap();
            assert_eq!((read.width, read.height), (6, 4));
            let again = image::load_from_memory(&read.png).unwrap();
            assert_eq!(again, DynamicImage::ImageRgb8(picture()));
        }
        // A JPEG with a comment and an EXIF block that turns it by a quarter.
        let jpeg = encoded(&picture(), ImageFormat::Jpeg);
        let exif = [
            b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
                .as_slice(),
            b"\xff\xfe\x00\x08canary",
        ]
        .concat();
        let jpeg = [&jpeg[..2], &exif, &jpeg[2..]].concat();
        let read = read_picture(&jpeg).unwrap();
        assert_eq!((read.width, read.height), (4, 6), "turned upright");
        for trace in [b"canary".as_slice(), b"Exif", b"eXIf"] {
            assert!(!read.png.windows(trace.len()).any(|part| part == trace));
        }
    }

    #[test]
    fn transparency_is_dropped() {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(&[10, 20, 30, 0].repeat(4), 2, 2, ExtendedColorType::Rgba8)
            .unwrap();
        let read = read_picture(&bytes).unwrap();
        let again = image::load_from_memory(&read.png).unwrap();
        assert_eq!(again.into_rgb8().into_raw(), [10, 20, 30].repeat(4));
    }

    #[test]
    fn the_header_is_judged_before_the_pixels() {
        let with_size = |width: u32, height: u32| {
            let mut bytes = encoded(&picture(), ImageFormat::Png);
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            bytes[20..24].copy_from_slice(&height.to_be_bytes());
            read_picture(&bytes).err().unwrap()
        };
        assert!(matches!(
            with_size(60_000, 60_000),
            PictureError::SideTooLong { .. }
        ));
        assert!(matches!(
            with_size(8_192, 8_192),
            PictureError::TooManyPixels { .. }
        ));
        assert!(matches!(with_size(0, 4), PictureError::Empty { .. }));
        assert!(matches!(with_size(6, 0), PictureError::Empty { .. }));
        assert!(matches!(with_size(6, 1), PictureError::SideTooShort { .. }));
        // A changed size breaks the checksum of the header.
        assert!(matches!(with_size(7, 4), PictureError::Damaged { .. }));
    }

    #[test]
    fn pixels_that_take_too_much_memory_are_refused() {
        // 16 bits and transparency: 288 MB, though the side and the number of pixels are allowed.
        let (width, height) = (6_000, 6_000);
        let mut bytes = Vec::new();
        let rows = vec![0; width as usize * height as usize * 8];
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::NoFilter)
            .write_image(&rows, width, height, ExtendedColorType::Rgba16)
            .unwrap();
        let verdict = read_picture(&bytes).err().unwrap();
        let is_told = matches!(verdict, PictureError::TooManyBytes { bytes: 288_000_000 });
        assert!(is_told, "{verdict}");
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let png = encoded(&picture(), ImageFormat::Png);
        for bytes in [
            b"".as_slice(),
            b"GIF89a",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%PDF-1.7",
        ] {
            let verdict = read_picture(bytes).err().unwrap();
            assert!(matches!(verdict, PictureError::NotAPicture), "{verdict}");
        }
        for cut in [8, 20, png.len() - 20] {
            let verdict = read_picture(&png[..cut]).err().unwrap();
            assert!(matches!(verdict, PictureError::Damaged { .. }), "{verdict}");
        }
    }
}

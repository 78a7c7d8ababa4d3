//! The gate of pictures: what is stored was decoded here under limits and encoded anew, so that no byte of the sender's
//! file reaches a node or another browser.

use flowai_actors::limits::{IMAGE_PIXELS_MAX, IMAGE_SIDE_PX_MAX, IMAGE_SIDE_PX_MIN};
use flowai_model::picture::{self, PictureError};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};

// What the api documents is what the gate does.
const _: () = assert!(
    IMAGE_SIDE_PX_MIN == picture::SIDE_MIN
        && IMAGE_SIDE_PX_MAX == picture::SIDE_MAX
        && IMAGE_PIXELS_MAX == picture::PIXELS_MAX
);

/// A picture as it is stored: PNG, RGB, upright, without metadata.
pub struct Picture {
    pub png: Vec<u8>,
    pub width: u32,
    pub height: u32,
}

/// Why a picture is not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error(transparent)]
    Gate(#[from] PictureError),
    #[error("cannot be written anew: {0}")]
    Encode(image::ImageError),
}

/// Decodes a picture of a user through the gate and encodes it anew.
pub(super) fn read_picture(bytes: &[u8]) -> Result<Picture, ImageError> {
    let picture = picture::decode(bytes)?;
    let mut png = Vec::new();
    // Stored once, read once by a node: time counts more than the last percent of size.
    let encoder =
        PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    picture
        .write_with_encoder(encoder)
        .map_err(ImageError::Encode)?;
    Ok(Picture {
        png,
        width: picture.width(),
        height: picture.height(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage};

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
}

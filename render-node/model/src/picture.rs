//! What a picture of a user must pass before anything looks at its pixels: the api before it is stored, the engine before a
//! clip starts from it. One gate, so that both read the same pixels.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Luma,
    LumaA, Pixel, Rgb, RgbImage, Rgba,
};

/// Larger files than this do not hold a picture within [`PIXELS_MAX`] in any sensible encoding.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// The engine's antialiasing filter mirrors pixels at the edges, so there must be one to mirror.
pub const SIDE_MIN: u32 = 2;
pub const SIDE_MAX: u32 = 8192;
pub const PIXELS_MAX: u64 = 40_000_000;
/// What a decoder may hold beside the pixels: a bomb says small and unpacks large.
const DECODER_BYTES_MAX: u64 = 256 << 20;
/// Pixels as the file has them; turning them upright and dropping transparency hold them twice for a moment. 40 million
/// pixels of 8 bits with transparency fit.
const PIXEL_BYTES_MAX: u64 = 4 * PIXELS_MAX;
/// What a decoder says of a damaged file may quote it.
const REASON_CHARS_MAX: usize = 200;

/// Why a file is no picture that a clip can start from.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("is larger than {FILE_BYTES_MAX} bytes; send a smaller picture")]
    FileTooLarge,
    #[error("is no png, jpeg or webp")]
    NotAPicture,
    #[error("cannot be read as {format}: {reason}")]
    Damaged {
        format: &'static str,
        reason: String,
    },
    #[error("has 0 pixels ({width}x{height})")]
    Empty { width: u32, height: u32 },
    #[error("is {width}x{height} pixels; each side must be at least {SIDE_MIN}")]
    SideTooShort { width: u32, height: u32 },
    #[error("is {width}x{height} pixels; each side must be at most {SIDE_MAX}")]
    SideTooLong { width: u32, height: u32 },
    #[error("is {width}x{height} pixels; at most {PIXELS_MAX} pixels are read")]
    TooManyPixels { width: u32, height: u32 },
    #[error(
        "has {bytes} bytes of pixels; at most {PIXEL_BYTES_MAX} are read: save it with 8 bits a channel"
    )]
    TooManyBytes { bytes: u64 },
}

/// Decodes a PNG, JPEG or WebP file, told apart by their first bytes. Of an animation, the first frame.
///
/// Turned as its EXIF orientation says, transparency dropped, of 16 bits the upper eight kept, as the reference pipeline does.
/// Sizes are checked before any pixel is decoded.
///
/// Errors: see [`PictureError`].
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(PictureError::FileTooLarge);
    }
    let (format, name) = format_of(bytes).ok_or(PictureError::NotAPicture)?;
    if let Some((width, height)) = png_size(bytes).filter(|_| format == ImageFormat::Png) {
        // The decoder has no name for a side of 0.
        check_size(width, height)?;
    }
    let damaged = |error: ImageError| PictureError::Damaged {
        format: name,
        reason: error.to_string().chars().take(REASON_CHARS_MAX).collect(),
    };
    if format == ImageFormat::WebP && !chunks_fit(bytes) {
        return Err(PictureError::Damaged {
            format: name,
            reason: "a chunk is longer than the file".to_owned(),
        });
    }

    if format == ImageFormat::Jpeg && !has_jpeg_end(bytes) {
        return Err(PictureError::Damaged {
            format: name,
            reason: "it has no end: it was cut off; send it whole, or save it again".to_owned(),
        });
    }

    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    // The decoder counts what it needs itself, and not the pixels that it is asked to fill.
    let pixel_bytes = decoder.total_bytes();
    if pixel_bytes > PIXEL_BYTES_MAX {
        return Err(PictureError::TooManyBytes { bytes: pixel_bytes });
    }

    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(into_rgb8(image))
}

/// Whether a picture of this size is read at all.
pub fn check_size(width: u32, height: u32) -> Result<(), PictureError> {
    if width == 0 || height == 0 {
        return Err(PictureError::Empty { width, height });
    }
    if width > SIDE_MAX || height > SIDE_MAX {
        return Err(PictureError::SideTooLong { width, height });
    }
    if width < SIDE_MIN || height < SIDE_MIN {
        return Err(PictureError::SideTooShort { width, height });
    }
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(PictureError::TooManyPixels { width, height });
    }
    Ok(())
}

/// By magic bytes alone: names and content types are the sender's claims.
fn format_of(bytes: &[u8]) -> Option<(ImageFormat, &'static str)> {
    match image::guess_format(bytes).ok()? {
        format @ ImageFormat::Png => Some((format, "png")),
        format @ ImageFormat::Jpeg => Some((format, "jpeg")),
        format @ ImageFormat::WebP => Some((format, "webp")),
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

/// Whether a JPEG file has all that it says up to its end marker: the decoder paints what is missing grey. Pictures within its segments of
/// metadata, which have ends of their own, are passed over. (ITU-T T.81, B.1.1)
fn has_jpeg_end(jpeg: &[u8]) -> bool {
    const STUFFED: u8 = 0x00;
    const STANDALONE: [u8; 10] = [0x01, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8];
    const END: u8 = 0xd9;
    let mut at = 0;
    loop {
        let Some(next) = jpeg
            .get(at..)
            .and_then(|rest| rest.iter().position(|b| *b == 0xff))
        else {
            return false;
        };
        at += next + 1;
        match jpeg.get(at) {
            Some(&END) => return true,
            // Filled up before a marker.
            Some(0xff) => {}
            Some(&STUFFED) => at += 1,
            Some(marker) if STANDALONE.contains(marker) => at += 1,
            Some(_) => {
                let length = jpeg.get(at + 1..).and_then(|rest| rest.first_chunk::<2>());
                at += 1 + length.map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
            }
            None => return false,
        }
    }
}

/// Whether no chunk of a WebP file says that it is longer than what is left of the file: the decoder takes memory for what a
/// chunk of metadata says, up to 4 GB, before it reads.
fn chunks_fit(webp: &[u8]) -> bool {
    let size_at = |at: usize| {
        let size = webp.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*size) as usize)
    };
    let end = size_at(4).map_or(0, |riff| webp.len().min(8 + riff));
    let mut at = 12;
    while at + 8 <= end {
        let Some(size) = size_at(at + 4).filter(|size| *size <= webp.len() - at - 8) else {
            return false;
        };
        // Chunks begin at even places.
        at += 8 + size + size % 2;
    }
    true
}

/// As Pillow reduces 16 bits: the crate's own conversion rounds to the nearest of 255 levels instead.
fn into_rgb8(image: DynamicImage) -> RgbImage {
    match image {
        DynamicImage::ImageRgb16(image) => upper_bytes(&image, |&Rgb(rgb)| rgb),
        DynamicImage::ImageRgba16(image) => upper_bytes(&image, |&Rgba([r, g, b, _])| [r, g, b]),
        DynamicImage::ImageLuma16(image) => upper_bytes(&image, |&Luma([grey])| [grey; 3]),
        DynamicImage::ImageLumaA16(image) => upper_bytes(&image, |&LumaA([grey, _])| [grey; 3]),
        eight_bits => eight_bits.into_rgb8(),
    }
}

fn upper_bytes<P: Pixel<Subpixel = u16>>(
    image: &ImageBuffer<P, Vec<u16>>,
    rgb: impl Fn(&P) -> [u16; 3],
) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        Rgb(rgb(image.get_pixel(x, y)).map(|value| (value >> 8) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        encoded(&DynamicImage::new_rgb8(width, height))
    }

    fn encoded(image: &DynamicImage) -> Vec<u8> {
        encoded_as(ImageFormat::Png, image)
    }

    fn encoded_as(format: ImageFormat, image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// A whole PNG of 8x8 pixels that says it has others.
    fn png_that_says(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = png(8, 8);
        say(&mut bytes, width, height, [8, 2]);
        bytes
    }

    /// Writes another header, whose checksum is right: sizes, then bits a channel and the kind of colour.
    fn say(png: &mut [u8], width: u32, height: u32, kind: [u8; 2]) {
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        png[24..26].copy_from_slice(&kind);
        let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        let byte = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), step);
        let checksum = !png[12..29].iter().fold(u32::MAX, byte);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn what_is_no_usable_picture_is_refused() {
        let check = |what: &str, bytes: &[u8], expected: &str| {
            let error = decode(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{what}: {error}");
        };
        for (what, bytes) in [
            ("nothing", b"".as_slice()),
            ("text", b"a picture, honestly"),
            ("another format", b"GIF89a\x08\0\x08\0\0\0\0"),
            ("a drawing", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            ("a document", b"%PDF-1.7"),
        ] {
            check(what, bytes, "is no png, jpeg or webp");
        }
        check("a cut file", &png(64, 64)[..80], "cannot be read as png");
        let whole = encoded_as(ImageFormat::Jpeg, &DynamicImage::new_rgb8(64, 64));
        decode(&whole).unwrap();
        decode(&[whole.as_slice(), b"and more"].concat()).unwrap();
        for kept in [whole.len() - 1, whole.len() - 2, whole.len() / 2] {
            check("a cut jpeg", &whole[..kept], "cannot be read as jpeg");
        }
        let magic = b"\xff\xd8\xff\xe0";
        check("only magic bytes", magic, "cannot be read as jpeg");
        check("no pixels", &png_that_says(0, 0), "has 0 pixels (0x0)");
        check("no width", &png_that_says(0, 4), "has 0 pixels (0x4)");
        check(
            "one row",
            &png(8, 1),
            "is 8x1 pixels; each side must be at least 2",
        );
        check("a bomb", &png_that_says(60_000, 60_000), "is 60000x60000");
        check(
            "too long",
            &png_that_says(8193, 8),
            "each side must be at most 8192",
        );
        check(
            "too large",
            &png_that_says(8000, 8000),
            "at most 40000000 pixels",
        );
        check(
            "fewer pixels than said",
            &png_that_says(64, 64),
            "cannot be read",
        );
        check(
            "too many bytes",
            &vec![0; (64 << 20) + 1],
            "larger than 67108864 bytes",
        );
    }

    #[test]
    fn pixels_that_take_too_much_memory_are_refused() {
        // 16 bits and transparency: 288 MB, though the sides and the number of pixels are allowed.
        let mut bytes = png(8, 8);
        say(&mut bytes, 6_000, 6_000, [16, 6]);
        let verdict = decode(&bytes).unwrap_err();
        let is_told = matches!(verdict, PictureError::TooManyBytes { bytes: 288_000_000 });
        assert!(is_told, "{verdict}");
    }

    #[test]
    fn grey_with_transparency_becomes_rgb() {
        let grey = image::GrayAlphaImage::from_pixel(4, 4, LumaA([77, 3]));
        assert_eq!(decode(&encoded(&grey.into())).unwrap().into_raw(), [77; 48]);
    }

    /// Rounding instead would make 0x41 of 0x40ff.
    #[test]
    fn of_sixteen_bits_the_upper_eight_are_kept() {
        let [width, height] = [4, 4];
        let value: u16 = 0x40ff;
        let pictures = [
            DynamicImage::from(ImageBuffer::from_pixel(width, height, Rgb([value; 3]))),
            DynamicImage::from(ImageBuffer::from_pixel(width, height, Rgba([value; 4]))),
            DynamicImage::from(ImageBuffer::from_pixel(width, height, Luma([value]))),
            DynamicImage::from(ImageBuffer::from_pixel(width, height, LumaA([value; 2]))),
        ];
        for picture in pictures {
            let decoded = decode(&encoded(&picture)).unwrap();
            assert_eq!(decoded.into_raw(), [0x40; 48], "{:?}", picture.color());
        }
    }
}

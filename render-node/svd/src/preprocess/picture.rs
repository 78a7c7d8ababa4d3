use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Luma, LumaA, Pixel,
    Rgb, RgbImage, Rgba,
};
use tch::{Kind, Tensor};

use super::antialias::resize_with_antialiasing;
use super::{PreprocessError, lanczos};
use crate::error::Result;

/// Larger files than this do not hold a picture within [`PIXELS_MAX`] in any sensible encoding.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The antialiasing filter mirrors pixels at the edges, so there must be one to mirror.
const SIDE_MIN: u32 = 2;
const SIDE_MAX: u32 = 8192;
const PIXELS_MAX: u64 = 40_000_000;
/// What a decoder may allocate: a bomb says small and unpacks large.
const DECODER_BYTES_MAX: u64 = 256 << 20;

/// A decoded picture: upright, eight bits, RGB.
#[derive(Clone)]
pub struct Picture {
    width: u32,
    height: u32,
    /// Row-major, three bytes a pixel.
    rgb: Vec<u8>,
}

impl Picture {
    /// Reads a PNG, JPEG or WebP file; see [`Picture::decode`].
    pub fn open(path: &Path) -> std::result::Result<Self, PreprocessError> {
        let read = |source| PreprocessError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(read)?;
        Self::decode(&bytes)
    }

    /// Decodes a PNG, JPEG or WebP file, told apart by their first bytes. Of an animation, the first frame.
    ///
    /// Turned as its EXIF orientation says, transparency dropped, of 16 bits the upper eight kept. JPEG decoders differ in
    /// rounding and in how they widen halved colours, so a JPEG may differ from what Pillow reads by up to four levels; PNG
    /// and WebP are exact, but for grey of 16 bits without transparency: there Pillow makes white of everything
    /// above 255 of 65535.
    ///
    /// Errors: not such a file, damaged, or sides and area outside of what [`PreprocessError::Size`] names. Sizes are
    /// checked before any pixel is decoded.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, PreprocessError> {
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(PreprocessError::FileTooLarge {
                max: FILE_BYTES_MAX,
            });
        }
        let format = image::guess_format(bytes).map_err(|_| PreprocessError::NotAPicture)?;
        let supported = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];
        if !supported.contains(&format) {
            return Err(PreprocessError::NotAPicture);
        }
        let damaged = |source| PreprocessError::Damaged { format, source };

        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(DECODER_BYTES_MAX);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        check_size(width, height)?;

        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        image.apply_orientation(orientation);
        let image = into_rgb8(image);
        Ok(Self {
            width: image.width(),
            height: image.height(),
            rgb: image.into_raw(),
        })
    }

    /// A picture from its pixels, row-major, three bytes each.
    pub fn from_rgb(
        width: u32,
        height: u32,
        rgb: Vec<u8>,
    ) -> std::result::Result<Self, PreprocessError> {
        check_size(width, height)?;
        let expected = width as usize * height as usize * 3;
        if rgb.len() != expected {
            return Err(PreprocessError::PixelCount {
                width,
                height,
                found: rgb.len(),
                expected,
            });
        }
        Ok(Self { width, height, rgb })
    }

    pub fn width(&self) -> u32 {
        self.width
    }

    pub fn height(&self) -> u32 {
        self.height
    }

    /// Row-major, three bytes a pixel.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The picture stretched to `width` x `height` by Pillow's Lanczos filter, bit for bit.
    pub fn resized(&self, width: u32, height: u32) -> std::result::Result<Self, PreprocessError> {
        check_size(width, height)?;
        let from = (self.width as usize, self.height as usize);
        let to = (width as usize, height as usize);
        Ok(Self {
            width,
            height,
            rgb: lanczos::resize(&self.rgb, from, to),
        })
    }

    /// What the VAE reads: the picture stretched to `width` x `height`, (1, 3, height, width) in -1..=1, f32 on the CPU.
    pub fn conditioning(&self, width: u32, height: u32) -> Result<Tensor> {
        self.resized(width, height)?.planes()
    }

    /// What CLIP reads: (1, 3, `image_size`, `image_size`), normalised by channel, f32 on the CPU.
    ///
    /// Not clamped: the cubic filter overshoots, and the reference lets it.
    pub fn clip_pixels(&self, image_size: i64, mean: [f64; 3], std: [f64; 3]) -> Result<Tensor> {
        let channels = |values: [f64; 3]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(&values.map(|value| value as f32))?.f_view([1, 3, 1, 1])?)
        };
        let resized = resize_with_antialiasing(&self.planes()?, image_size)?;
        let unit = resized.f_add_scalar(1.0)?.f_div_scalar(2.0)?;
        Ok(unit.f_sub(&channels(mean)?)?.f_div(&channels(std)?)?)
    }

    /// (1, 3, H, W) in -1..=1.
    fn planes(&self) -> Result<Tensor> {
        let shape = [1, i64::from(self.height), i64::from(self.width), 3];
        let pixels = Tensor::f_from_data_size(&self.rgb, &shape, Kind::Uint8)?;
        let unit = pixels.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
        let signed = unit.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        Ok(signed.f_permute([0, 3, 1, 2])?.f_contiguous()?)
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
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

fn check_size(width: u32, height: u32) -> std::result::Result<(), PreprocessError> {
    let sides = SIDE_MIN..=SIDE_MAX;
    if sides.contains(&width)
        && sides.contains(&height)
        && u64::from(width) * u64::from(height) <= PIXELS_MAX
    {
        return Ok(());
    }
    Err(PreprocessError::Size {
        width,
        height,
        side_min: SIDE_MIN,
        side_max: SIDE_MAX,
        pixels_max: PIXELS_MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let image = DynamicImage::new_rgb8(width, height);
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// A whole PNG of 8x8 pixels that says it has others, in a header whose checksum is right.
    fn png_that_says(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = png(8, 8);
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        let byte = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), step);
        let checksum = !bytes[12..29].iter().fold(u32::MAX, byte);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    #[test]
    fn what_is_no_usable_picture_is_refused() {
        let check = |what: &str, bytes: &[u8], expected: &str| {
            let error = Picture::decode(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{what}: {error}");
        };
        check("nothing", b"", "no PNG, JPEG or WebP");
        check("text", b"a picture, honestly", "no PNG, JPEG or WebP");
        check(
            "another format",
            b"GIF89a\x08\0\x08\0\0\0\0",
            "no PNG, JPEG or WebP",
        );
        check("a cut file", &png(64, 64)[..80], "Png picture is damaged");
        check(
            "only magic bytes",
            b"\xff\xd8\xff\xe0",
            "Jpeg picture is damaged",
        );
        check("no pixels", &png_that_says(0, 0), "Png picture is damaged");
        check(
            "one row",
            &png(8, 1),
            "is 8x1; a picture may have sides of 2..=8192",
        );
        check("a bomb", &png_that_says(60_000, 60_000), "is 60000x60000");
        check("too long", &png_that_says(8193, 8), "is 8193x8");
        check(
            "too large",
            &png_that_says(8000, 8000),
            "at most 40000000 pixels",
        );
        check("fewer pixels than said", &png_that_says(64, 64), "damaged");
        check(
            "too many bytes",
            &vec![0; (64 << 20) + 1],
            "larger than 67108864 bytes",
        );
    }

    #[test]
    fn pixels_must_be_as_many_as_the_size_says() {
        assert!(Picture::from_rgb(4, 2, vec![0; 24]).is_ok());
        let error = Picture::from_rgb(4, 2, vec![0; 23]).unwrap_err();
        assert_eq!(error.to_string(), "pixels are 23 bytes; 4x2 RGB is 24");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Picture::open(Path::new("no/such.png")).unwrap_err();
        assert!(error.to_string().starts_with("no/such.png: cannot be read"));
    }

    #[test]
    fn grey_with_transparency_becomes_rgb() {
        let grey = image::GrayAlphaImage::from_pixel(4, 4, image::LumaA([77, 3]));
        let mut bytes = Cursor::new(Vec::new());
        grey.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let picture = Picture::decode(bytes.get_ref()).unwrap();
        assert_eq!(picture.rgb(), [77; 48]);
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
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
            let decoded = Picture::decode(bytes.get_ref()).unwrap();
            assert_eq!(decoded.rgb(), [0x40; 48], "{:?}", picture.color());
        }
    }
}

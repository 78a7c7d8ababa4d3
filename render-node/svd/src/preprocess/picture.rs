use std::fs::File;
use std::io::Read;
use std::path::Path;

use flowai_model::picture::{self, FILE_BYTES_MAX, check_size};
use tch::{Kind, Tensor};

use super::antialias::resize_with_antialiasing;
use super::{PreprocessError, lanczos};
use crate::error::Result;

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

    /// Decodes a PNG, JPEG or WebP file, as [`picture::decode`] says.
    ///
    /// JPEG decoders differ in rounding and in how they widen halved colours, so a JPEG may differ from what Pillow reads by
    /// up to four levels; PNG and WebP are exact, but for grey of 16 bits without transparency: there Pillow makes white of
    /// everything above 255 of 65535.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, PreprocessError> {
        let image = picture::decode(bytes)?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

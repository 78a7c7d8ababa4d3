//! Inputs made of names, the same on every machine.

use std::path::{Path, PathBuf};

use flowai_model::synthetic;
use tch::Tensor;

/// About N(0, 1), f32: a pure function of the arguments.
pub(crate) fn values(name: &str, shape: &[i64], seed: u64) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    // A column has a fan-in of 1, so its values are not scaled.
    let values = synthetic::tensor(&format!("test.{name}"), &[count, 1], seed);
    Tensor::from_slice(&values).view(shape)
}

/// A picture with edges, ramps and noise as a PNG file.
pub(crate) fn write_picture(dir: &Path, width: u32, height: u32) -> PathBuf {
    let path = dir.join(format!("picture-{width}x{height}.png"));
    picture(width, height).save(&path).unwrap();
    path
}

/// A picture of one grey as a PNG file, black to white.
pub(crate) fn write_flat_picture(dir: &Path, width: u32, height: u32, grey: u8) -> PathBuf {
    let path = dir.join(format!("flat-{grey}-{width}x{height}.png"));
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb([grey; 3]));
    picture.save(&path).unwrap();
    path
}

pub(crate) fn picture(width: u32, height: u32) -> image::RgbImage {
    let count = (width * height) as usize;
    let noise = synthetic::tensor("test.picture", &[count, 1], 0);
    image::RgbImage::from_fn(width, height, |x, y| {
        let ramp = |at: u32, length: u32| (at * 255 / length.max(2)) as u8;
        let edge = if (x / 7 + y / 5) % 3 == 0 { 255 } else { 0 };
        let noisy = 128.0 + 40.0 * noise[(y * width + x) as usize];
        image::Rgb([
            ramp(x, width) ^ edge,
            ramp(y, height),
            noisy.clamp(0.0, 255.0) as u8,
        ])
    })
}

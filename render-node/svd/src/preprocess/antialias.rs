//! diffusers' `_resize_with_antialiasing`: a Gaussian as wide as the picture shrinks, then a bicubic filter.

use tch::{Kind, Tensor};

use crate::error::Result;

/// (1, C, H, W) with H and W over 1, to (1, C, size, size).
pub(super) fn resize_with_antialiasing(x: &Tensor, size: i64) -> Result<Tensor> {
    let (_, _, height, width) = x.size4()?;
    let blurred = blur_columns(&blur_rows(x, width, size)?, height, size)?;
    Ok(blurred.f_upsample_bicubic2d([size, size], true, None, None)?)
}

fn blur_rows(x: &Tensor, width: i64, size: i64) -> Result<Tensor> {
    let kernel = gaussian(width as f64 / size as f64)?;
    let taps = kernel.size1()?;
    let (front, back) = margins(taps);
    convolve(
        &x.f_reflection_pad2d([front, back, 0, 0])?,
        &kernel.f_view([1, 1, 1, taps])?,
    )
}

fn blur_columns(x: &Tensor, height: i64, size: i64) -> Result<Tensor> {
    let kernel = gaussian(height as f64 / size as f64)?;
    let taps = kernel.size1()?;
    let (front, back) = margins(taps);
    convolve(
        &x.f_reflection_pad2d([0, 0, front, back])?,
        &kernel.f_view([1, 1, taps, 1])?,
    )
}

fn margins(taps: i64) -> (i64, i64) {
    let front = (taps - 1) / 2;
    (front, taps - 1 - front)
}

fn convolve(x: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    let channels = x.size4()?.1;
    let kernel = kernel.f_expand([channels, -1, -1, -1], false)?;
    Ok(x.f_conv2d(&kernel, None::<&Tensor>, [1, 1], [0, 0], [1, 1], channels)?)
}

/// The normalised weights of a window that spans two deviations to either side, in f32.
///
/// `factor` is how many times smaller the side becomes. At 1 or less the window is one weight of 1 between zeros.
fn gaussian(factor: f64) -> Result<Tensor> {
    let sigma = ((factor - 1.0) / 2.0).max(0.001);
    let taps = (4.0 * sigma).max(3.0) as i64;
    let taps = taps + (taps + 1) % 2;
    let offsets = Tensor::f_arange_start(
        -(taps / 2),
        taps - taps / 2,
        (Kind::Float, tch::Device::Cpu),
    )?;
    // In f32 like the reference, whose sigma is a tensor.
    let sigma = sigma as f32;
    let weights = offsets
        .f_square()?
        .f_neg()?
        .f_div_scalar(f64::from(2.0 * (sigma * sigma)))?
        .f_exp()?;
    let sum = weights.f_sum(None)?;
    Ok(weights.f_div(&sum)?)
}

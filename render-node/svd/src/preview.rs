//! What a clip will look like while it is still being denoised: each latent becomes one pixel, by a linear map.
//!
//! The sampler's guess of the clip without noise is there after every step. To decode it would cost seconds; the four numbers
//! of a latent tell its mean colour nearly as well. The map is fitted to the model's VAE by least squares, once a model.

use std::f64::consts::TAU;

use flowai_model::config::VaeConfig;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::engine::Engine;
use crate::error::Result;
use crate::refusal::refusals;
use crate::run::Run;
use crate::shim::Inference;

/// Of a preview, pixels; larger latents are averaged.
pub const PREVIEW_SIDE_MAX: u32 = 128;

/// Pictures that the map is fitted to: 256 latents each, for five numbers a colour.
const PICTURES: usize = 8;
/// Latents to a side of such a picture.
const PICTURE_LATENTS: usize = 16;
/// Keeps the equations solvable where a latent channel is constant; far below what the fit can tell.
const RIDGE: f64 = 1e-6;

/// From the latents of a frame to the colours of its pixels in -1..=1, where 1 latent is 1 pixel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreviewMap {
    /// Red, green and blue that each latent channel adds. Of latents as the decoder reads them.
    weights: Vec<[f64; 3]>,
    bias: [f64; 3],
}

/// A small clip: 8 bits, red green blue, frame by frame and row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Steps that are done.
    pub step: usize,
    pub width: u32,
    pub height: u32,
    pub frames: Vec<Vec<u8>>,
}

impl PreviewMap {
    /// Whether the map is for latents of this VAE: a file may be of another program.
    pub fn fits(&self, vae: &VaeConfig) -> bool {
        let finite = |numbers: &[f64; 3]| numbers.iter().all(|number| number.is_finite());
        self.weights.len() == vae.latent_channels
            && self.weights.iter().chain([&self.bias]).all(finite)
    }

    /// Paints latents (F, L, h, w) as the decoder reads them: divided by the VAE's scaling factor, and finite.
    ///
    /// Errors: latents of another VAE, too little memory.
    pub fn paint(&self, latents: &Tensor, step: usize) -> Result<Preview> {
        let (frames, _, height, width) = latents.size4()?;
        let shrink = (height.max(width) as u64).div_ceil(u64::from(PREVIEW_SIDE_MAX)) as i64;
        let (height, width) = ((height / shrink).max(1), (width / shrink).max(1));
        let latents = match shrink {
            1 => latents.shallow_clone(),
            _ => latents.f_adaptive_avg_pool2d([height, width])?,
        };
        let device = latents.device();
        let weights = Tensor::f_from_slice(self.weights.as_flattened())?
            .f_view([-1, 3])?
            .f_to_kind(Kind::Float)?
            .f_to_device(device)?;
        let bias = Tensor::f_from_slice(&self.bias)?
            .f_to_kind(Kind::Float)?
            .f_to_device(device)?;
        let pixels = latents.f_permute([0, 2, 3, 1])?.f_matmul(&weights)?;
        let bytes = pixels
            .f_add(&bias)?
            .f_add_scalar_(1.0)?
            .f_mul_scalar_(127.5)?
            .f_clamp_(0.0, 255.0)?
            .f_round()?
            .f_to_kind(Kind::Uint8)?
            .f_contiguous()?
            .f_to_device(Device::Cpu)?;
        let mut rgb = vec![0; bytes.numel()];
        bytes.f_copy_data_u8(&mut rgb, bytes.numel())?;
        let frame_bytes = rgb.len() / frames.max(1) as usize;
        Ok(Preview {
            step,
            width: width as u32,
            height: height as u32,
            frames: rgb.chunks(frame_bytes.max(1)).map(<[u8]>::to_vec).collect(),
        })
    }
}

impl Engine {
    /// Fits the map to what the VAE's decoder makes of a few pictures that its encoder has read. Takes as long as decoding a
    /// few small frames, so keep it with the model's hash.
    ///
    /// Errors: too little memory.
    pub fn fit_preview(&self) -> Result<PreviewMap> {
        let _inference = Inference::enter();
        refusals(|| {
            let mut rows = Vec::new();
            let mut colours = Vec::new();
            for index in 0..PICTURES {
                let (latents, pixels) = self.seen(index)?;
                rows.push(latents);
                colours.push(pixels);
            }
            solve(&Tensor::f_cat(&rows, 0)?, &Tensor::f_cat(&colours, 0)?)
        })
    }

    /// A picture's latents (n, L) and what the decoder makes of them, one mean colour a latent (n, 3); f64 on the CPU.
    fn seen(&self, index: usize) -> Result<(Tensor, Tensor)> {
        let factor = self.config().vae_scale_factor();
        let picture = picture(index, PICTURE_LATENTS * factor)?;
        let latents = self.encode(&picture)?;
        let decoded = self.vae_decoder.forward(&latents)?;
        let factor = factor as i64;
        let pooled = decoded.f_to_kind(Kind::Float)?.f_avg_pool2d(
            [factor, factor],
            [factor, factor],
            [0, 0],
            false,
            true,
            None::<i64>,
        )?;
        Ok((by_pixel(&latents)?, by_pixel(&pooled)?))
    }
}

impl Run<'_> {
    /// The clip as the last step guesses it; `None` before the first one. Reads the run and changes nothing.
    ///
    /// Errors: too little memory.
    pub fn preview(&self, map: &PreviewMap) -> Result<Option<Preview>> {
        let _inference = Inference::enter();
        refusals(|| {
            let Some(guess) = self.denoised()? else {
                return Ok(None);
            };
            let guess = guess.f_squeeze_dim(0)?;
            let scaled = guess.f_mul_scalar(1.0 / self.vae().scaling_factor)?;
            Ok(Some(map.paint(&scaled, self.steps_done())?))
        })
    }
}

/// (1, 3, side, side) in -1..=1: slow waves and edges in colours of their own, so that every colour is somewhere.
fn picture(index: usize, side: usize) -> Result<Tensor> {
    let mut values = Vec::with_capacity(3 * side * side);
    for channel in 0..3 {
        let turn = (index * 3 + channel) as f64;
        let (across, down) = (1.0 + turn % 3.0, 1.0 + (turn * 0.7) % 2.0);
        let level = (turn * 2.399).sin() * 0.6;
        for y in 0..side {
            for x in 0..side {
                let (u, v) = (x as f64 / side as f64, y as f64 / side as f64);
                let wave = (TAU * (across * u + down * v) + turn).sin();
                let edge = if (u + v * (turn * 0.4).cos()) % 0.5 < 0.25 {
                    0.4
                } else {
                    -0.4
                };
                values.push((level + 0.4 * wave + edge).clamp(-1.0, 1.0) as f32);
            }
        }
    }
    let side = side as i64;
    Ok(Tensor::f_from_slice(&values)?.f_view([1, 3, side, side])?)
}

/// (F, C, h, w) to (F*h*w, C), f64 on the CPU.
fn by_pixel(x: &Tensor) -> Result<Tensor> {
    let channels = x.size4()?.1;
    let x = x.f_permute([0, 2, 3, 1])?.f_contiguous()?;
    let x = x.f_view([-1, channels])?.f_to_device(Device::Cpu)?;
    Ok(x.f_to_kind(Kind::Double)?)
}

/// Least squares of `colours` (n, 3) on `latents` (n, L) and a constant.
fn solve(latents: &Tensor, colours: &Tensor) -> Result<PreviewMap> {
    let (rows, channels) = latents.size2()?;
    let ones = Tensor::f_ones([rows, 1], (Kind::Double, Device::Cpu))?;
    let known = Tensor::f_cat(&[latents, &ones], 1)?;
    let transposed = known.f_transpose(0, 1)?;
    let products = transposed.f_matmul(&known)?;
    let scale = products.f_trace()?.f_double_value(&[])? * RIDGE;
    let ridge = Tensor::f_eye(channels + 1, (Kind::Double, Device::Cpu))?.f_mul_scalar(scale)?;
    let wanted = transposed.f_matmul(colours)?;
    let solved = Tensor::f_linalg_solve(&products.f_add(&ridge)?, &wanted, true)?;
    let mut numbers = vec![0.0; solved.numel()];
    solved
        .f_contiguous()?
        .f_copy_data(&mut numbers, solved.numel())?;
    let mut rows: Vec<[f64; 3]> = numbers.as_chunks::<3>().0.to_vec();
    let bias = rows.pop().unwrap_or_default();
    Ok(PreviewMap {
        weights: rows,
        bias,
    })
}

//! Noise that a seed means the same everywhere: torch's CPU generator, whatever the device.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// libtorch has one CPU generator in the process; seeding and drawing must not be interrupted by another job's.
static GENERATOR: Mutex<()> = Mutex::new(());

/// The two draws of a clip.
#[derive(Debug)]
pub struct Noise {
    /// f32, for the conditioning picture.
    pub picture: Tensor,
    /// For the first latents. Drawn in the precision of the model: a draw in fp16 is not a rounded draw in fp32.
    pub latents: Tensor,
}

/// Draws what diffusers draws with `generator=torch.manual_seed(seed)`, in its order. Both are on the CPU.
pub fn draw(
    seed: u64,
    picture_shape: &[i64],
    latents_shape: &[i64],
    latents_kind: Kind,
) -> Result<Noise> {
    // A poisoned lock guards no data: the next holder seeds anew.
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed.cast_signed());
    Ok(Noise {
        picture: Tensor::f_randn(picture_shape, (Kind::Float, Device::Cpu))?,
        latents: Tensor::f_randn(latents_shape, (latents_kind, Device::Cpu))?,
    })
}

/// The one draw of a keyframe, whose seed is its own: in the precision of the model, on the CPU.
pub fn draw_latents(seed: u64, shape: &[i64], kind: Kind) -> Result<Tensor> {
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed.cast_signed());
    Ok(Tensor::f_randn(shape, (kind, Device::Cpu))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First values of `torch.manual_seed(0); torch.randn(1, 3, 4, 4); torch.randn(1, 2, 4, 2, 2)` in torch 2.11.0.
    #[test]
    fn draws_equal_torch() {
        const PICTURE: [f32; 3] = [-1.125_839_8, -1.152_360_2, -0.250_578_58];
        const LATENTS: [f32; 3] = [-0.673_089_9, 0.872_831_2, 1.055_357_5];
        let noise = draw(0, &[1, 3, 4, 4], &[1, 2, 4, 2, 2], Kind::Float).unwrap();
        let first = |x: &Tensor| {
            let values = Vec::<f32>::try_from(x.flatten(0, -1)).unwrap();
            [values[0], values[1], values[2]]
        };
        assert_eq!(first(&noise.picture), PICTURE);
        assert_eq!(first(&noise.latents), LATENTS);
    }

    #[test]
    fn a_draw_in_half_precision_is_another_draw() {
        let single = draw(7, &[1], &[64], Kind::Float).unwrap().latents;
        let half = draw(7, &[1], &[64], Kind::Half).unwrap().latents;
        let rounded = single.to_kind(Kind::Half);
        assert!(!half.equal(&rounded));
    }
}

//! What a render is when its asker does not say: the values of the reference pipeline, as far as the model allows.

use flowai_actors::limits::{PIXELS_MAX, SIDE_PX_MAX, SIDE_PX_MIN};
use flowai_actors::messages::ModelOffer;
use serde::Serialize;
use utoipa::ToSchema;

use super::configs::unet_config;
use crate::error::ApiError;

/// Of diffusers' `StableVideoDiffusionPipeline.__call__`, but for frames decoded at a time, which it leaves to memory.
const FPS: u32 = 7;
const STEPS: u32 = 25;
const MOTION_BUCKET: u32 = 127;
const NOISE_AUG: f32 = 0.02;
const GUIDANCE_MIN: f32 = 1.0;
const GUIDANCE_MAX: f32 = 3.0;
/// What fits beside the model at the size that SVD was trained at.
const DECODE_CHUNK_MAX: u32 = 8;
/// Latent side where a model's config gives none: SVD's.
const LATENT_SIDE: usize = 96;

/// A model's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct Defaults {
    pub frames: u32,
    pub fps: u32,
    pub steps: u32,
    pub motion_bucket_id: u32,
    pub noise_aug_strength: f32,
    pub min_guidance_scale: f32,
    pub max_guidance_scale: f32,
    pub decode_chunk_size: u32,
    /// Width times height that the model was trained at. Without a size, a video has this many pixels in the shape of its
    /// picture.
    pub pixels: u32,
    #[serde(skip)]
    side_multiple: u32,
}

impl Defaults {
    /// # Errors
    /// The offer's config is none that this build reads.
    pub(crate) fn of(offer: &ModelOffer) -> Result<Self, ApiError> {
        let unet = unet_config(offer)?;
        let side_multiple = offer.limits.side_multiple.max(1);
        // The multiple is the size of a latent, or a multiple of it where latents are small.
        let side = (unet.sample_size.unwrap_or(LATENT_SIDE) as u32).saturating_mul(side_multiple);
        let frames = (unet.num_frames as u32).clamp(1, offer.limits.frames_max.max(1));
        Ok(Self {
            frames,
            fps: FPS,
            steps: STEPS,
            motion_bucket_id: MOTION_BUCKET,
            noise_aug_strength: NOISE_AUG,
            min_guidance_scale: GUIDANCE_MIN,
            max_guidance_scale: GUIDANCE_MAX,
            decode_chunk_size: decode_chunk_size(frames),
            pixels: side.saturating_mul(side).min(PIXELS_MAX),
            side_multiple,
        })
    }

    /// The size of a video of this picture when its asker gives none, or one side only: the picture's shape at the model's
    /// own number of pixels. 16:9 gives 1024x576 with SVD.
    pub(crate) fn size(
        &self,
        picture: (u32, u32),
        width: Option<u32>,
        height: Option<u32>,
    ) -> (u32, u32) {
        let ratio = f64::from(picture.0) / f64::from(picture.1.max(1));
        match (width, height) {
            (Some(width), Some(height)) => (width, height),
            (Some(width), None) => (width, self.side(f64::from(width) / ratio)),
            (None, Some(height)) => (self.side(f64::from(height) * ratio), height),
            (None, None) => {
                let height = (f64::from(self.pixels) / ratio).sqrt();
                let (mut wide, mut high) = (self.side(height * ratio), self.side(height));
                // Rounding up both sides can pass the bound of all videos.
                while wide.saturating_mul(high) > PIXELS_MAX {
                    let longer = if wide >= high { &mut wide } else { &mut high };
                    *longer -= self.side_multiple;
                }
                (wide, high)
            }
        }
    }

    /// The nearest side that the model can make.
    fn side(&self, px: f64) -> u32 {
        let multiple = self.side_multiple;
        let nearest = (px / f64::from(multiple)).round() as u32;
        let least = SIDE_PX_MIN.div_ceil(multiple);
        let most = (SIDE_PX_MAX / multiple).max(least);
        nearest.clamp(least, most) * multiple
    }
}

/// Frames of a chunk, so that the chunks are about equal and none is of one frame: alone it is decoded without its
/// neighbours, which shows.
pub(crate) fn decode_chunk_size(frames: u32) -> u32 {
    let chunks = frames.div_ceil(DECODE_CHUNK_MAX).max(1);
    let mut size = frames.div_ceil(chunks).max(1);
    while size > 2 && frames % size == 1 {
        size -= 1;
    }
    size
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::Sha256;
    use flowai_actors::messages::ModelFamily;
    use flowai_actors::spec::SpecLimits;
    use flowai_model::Preset;

    use super::*;

    fn defaults(preset: Preset, side_multiple: u32) -> Defaults {
        let offer = ModelOffer {
            id: "m".parse().unwrap(),
            sha256: Sha256::from_bytes([0; 32]),
            family: ModelFamily::Svd,
            unet_config: preset.config().unet.to_json(),
            text_encoder_config: None,
            limits: SpecLimits {
                side_multiple,
                frames_max: 25,
            },
        };
        Defaults::of(&offer).unwrap()
    }

    #[test]
    fn a_wide_picture_gets_the_size_that_svd_was_trained_at() {
        let svd = defaults(Preset::FullSvd, 8);
        assert_eq!((svd.frames, svd.pixels), (25, 1024 * 576));
        for (picture, size) in [
            ((1920, 1080), (1024, 576)),
            ((1080, 1920), (576, 1024)),
            ((500, 500), (768, 768)),
            ((10_000, 1), (2048, 16)),
        ] {
            assert_eq!(svd.size(picture, None, None), size, "{picture:?}");
        }
        assert_eq!(svd.size((2, 1), Some(512), None), (512, 256));
        assert_eq!(svd.size((2, 1), None, Some(512)), (1024, 512));
        assert_eq!(svd.size((2, 1), Some(7), Some(9)), (7, 9));
    }

    #[test]
    fn no_frame_is_decoded_alone() {
        for (frames, chunk) in [(1, 1), (2, 2), (8, 8), (9, 5), (14, 7), (25, 7)] {
            assert_eq!(decode_chunk_size(frames), chunk, "{frames} frames");
        }
        for frames in 2..=64 {
            let chunk = decode_chunk_size(frames);
            assert!(
                chunk <= DECODE_CHUNK_MAX && frames % chunk != 1,
                "{frames} by {chunk}"
            );
        }
    }

    #[test]
    fn every_default_size_can_be_made() {
        for (preset, multiple) in [
            (Preset::FullSvd, 64),
            (Preset::Tiny, 4),
            (Preset::Middle, 64),
        ] {
            let model = defaults(preset, multiple);
            for width in (1..8_192).step_by(331) {
                for height in (1..8_192).step_by(257) {
                    let (w, h) = model.size((width, height), None, None);
                    let fits = |side: u32| {
                        side.is_multiple_of(multiple) && (SIDE_PX_MIN..=SIDE_PX_MAX).contains(&side)
                    };
                    assert!(
                        fits(w) && fits(h) && w * h <= PIXELS_MAX,
                        "{width}x{height}: {w}x{h}"
                    );
                }
            }
        }
    }
}

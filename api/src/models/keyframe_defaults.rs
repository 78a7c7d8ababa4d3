//! What a keyframe is when its asker does not say.

use flowai_actors::limits::{KEYFRAME_PIXELS_MAX, SIDE_PX_MAX, SIDE_PX_MIN, SIDE_PX_MULTIPLE};
use flowai_actors::messages::ModelOffer;
use flowai_actors::spec::{KeyframeSampler, KeyframeSpec};
use serde::Serialize;
use utoipa::ToSchema;

use super::configs::keyframe_configs;
use crate::error::ApiError;
use crate::videos::SamplerName;

/// A keyframe model's defaults. Without a size, a keyframe has that of its video.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct KeyframeDefaults {
    pub steps: u32,
    pub guidance_scale: f32,
    pub sampler: SamplerName,
    #[serde(skip)]
    side_multiple: u32,
}

impl KeyframeDefaults {
    /// # Errors
    /// The offer's configs are none that this build reads.
    pub(crate) fn of(offer: &ModelOffer) -> Result<Self, ApiError> {
        keyframe_configs(offer)?;
        Ok(Self {
            steps: KeyframeSpec::STEPS,
            guidance_scale: KeyframeSpec::GUIDANCE_SCALE,
            sampler: KeyframeSampler::default().into(),
            // Both are powers of two.
            side_multiple: offer.limits.side_multiple.max(SIDE_PX_MULTIPLE),
        })
    }

    /// The size of a keyframe when its asker gives none, or one side only: that of its clip, or in its shape, as near as the
    /// model can make and keyframes may be.
    pub(crate) fn size(
        &self,
        clip: (u32, u32),
        width: Option<u32>,
        height: Option<u32>,
    ) -> (u32, u32) {
        let (wide, high) = (f64::from(clip.0), f64::from(clip.1.max(1)));
        match (width, height) {
            (Some(width), Some(height)) => (width, height),
            (Some(width), None) => (width, self.side(f64::from(width) * high / wide)),
            (None, Some(height)) => (self.side(f64::from(height) * wide / high), height),
            (None, None) => {
                let size = (self.side(wide), self.side(high));
                if size.0.saturating_mul(size.1) <= KEYFRAME_PIXELS_MAX {
                    return size;
                }
                let scale = (f64::from(KEYFRAME_PIXELS_MAX) / (wide * high)).sqrt();
                let under = |px: f64| {
                    let sides = (px * scale / f64::from(self.side_multiple)).floor();
                    self.side(sides * f64::from(self.side_multiple))
                };
                (under(wide), under(high))
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

#[cfg(test)]
mod tests {
    use flowai_actors::limits::PIXELS_MAX;

    use super::*;

    const DEFAULTS: KeyframeDefaults = KeyframeDefaults {
        steps: 50,
        guidance_scale: 7.5,
        sampler: SamplerName::Ddim,
        side_multiple: 8,
    };

    #[test]
    fn a_keyframe_has_its_clips_size_as_near_as_it_may() {
        for (clip, width, height, expected) in [
            ((1024, 576), None, None, (1024, 576)),
            ((100, 60), None, None, (104, 64)),
            ((1920, 1088), None, None, (1360, 768)),
            ((1024, 576), Some(512), None, (512, 288)),
            ((1024, 576), None, Some(512), (912, 512)),
            ((1024, 576), Some(7), Some(9), (7, 9)),
        ] {
            let size = DEFAULTS.size(clip, width, height);
            assert_eq!(size, expected, "{clip:?} {width:?} {height:?}");
        }
    }

    #[test]
    fn every_default_size_can_be_made() {
        for width in (16..=2048).step_by(24) {
            for height in (16..=2048).step_by(40).filter(|h| width * h <= PIXELS_MAX) {
                let (wide, high) = DEFAULTS.size((width, height), None, None);
                let fits = |side: u32| {
                    side.is_multiple_of(8) && (SIDE_PX_MIN..=SIDE_PX_MAX).contains(&side)
                };
                assert!(
                    fits(wide) && fits(high) && wide * high <= KEYFRAME_PIXELS_MAX,
                    "{width}x{height}: {wide}x{high}"
                );
            }
        }
    }
}

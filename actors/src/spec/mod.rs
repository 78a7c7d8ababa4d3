//! What a render is asked to be: the spec, its ranges, and the check that names every field that is out of them.

mod check;
mod keyframe;

use serde::{Deserialize, Serialize};

use self::check::Check;
pub use self::keyframe::{KeyframeSampler, KeyframeSpec, Words};
use crate::ids::{ModelId, Sha256};
use crate::limits::*;

/// Everything that, with the model and the device class, determines the clip (INV-11).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenderSpec {
    pub model: ModelId,
    /// The conditioning picture.
    pub first_frame: FirstFrame,
    /// Those for `model`, at most [`ADAPTERS_MAX`], each file once.
    #[serde(default)]
    pub adapters: Vec<AdapterUse>,
    pub frames: u32,
    /// Frames a second, of the clip and of the model's conditioning.
    pub fps: u32,
    pub width: u32,
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// 0..=255: how much the picture moves.
    pub motion_bucket_id: u32,
    /// 0..=1: noise added to the conditioning picture.
    pub noise_aug_strength: f32,
    /// Guidance of the first frame; it grows linearly to `max_guidance_scale` at the last.
    pub min_guidance_scale: f32,
    pub max_guidance_scale: f32,
    /// Frames decoded at a time. Part of the spec because it changes the picture.
    pub decode_chunk_size: u32,
    /// 0..=2^53-1.
    pub seed: u64,
}

/// Where the conditioning picture comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstFrame {
    /// As stored: oriented, without metadata, re-encoded.
    Image(Sha256),
    /// Made from words, by the node that makes the clip.
    Keyframe(Box<KeyframeSpec>),
}

/// One adapter of a render.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterUse {
    pub sha256: Sha256,
    /// Strength, -4..=4; 1 is as trained.
    pub weight: f32,
}

/// What the offered model narrows the spec to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpecLimits {
    /// Sizes must be multiples of this: 2^(VAE levels - 1), times what the UNet halves.
    pub side_multiple: u32,
    pub frames_max: u32,
}

/// A field of a spec that cannot be honoured, and what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {detail}")]
pub struct InvalidField {
    /// The field's path, as in the JSON: `frames`, `adapters[1].weight`.
    pub field: String,
    pub detail: String,
}

impl RenderSpec {
    /// A render that is over in a moment, for whoever tries a farm out and for tests: 2 frames of 64x64 in 2 steps, decoded
    /// together; else the defaults of diffusers' `StableVideoDiffusionPipeline.__call__`, and seed 0.
    pub fn small(model: ModelId, image: Sha256) -> Self {
        Self {
            model,
            first_frame: FirstFrame::Image(image),
            adapters: Vec::new(),
            frames: 2,
            fps: 7,
            width: 64,
            height: 64,
            steps: 2,
            motion_bucket_id: 127,
            noise_aug_strength: 0.02,
            min_guidance_scale: 1.0,
            max_guidance_scale: 3.0,
            decode_chunk_size: 2,
            seed: 0,
        }
    }

    /// Checks every field; all that are wrong are reported at once.
    pub fn validate(&self, limits: &SpecLimits) -> Result<(), Vec<InvalidField>> {
        let mut check = Check::default();
        let multiple = limits.side_multiple.max(1);
        check.range(
            "frames",
            self.frames,
            FRAMES_MIN,
            limits.frames_max.min(FRAMES_MAX),
        );
        check.range("fps", self.fps, FPS_MIN, FPS_MAX);
        check.range("steps", self.steps, STEPS_MIN, STEPS_MAX);
        for (field, side) in [("width", self.width), ("height", self.height)] {
            check.range(field, side, SIDE_PX_MIN, SIDE_PX_MAX);
            check.require(side.is_multiple_of(multiple), field, || {
                format!("must be a multiple of {multiple} for this model (got {side})")
            });
        }
        check.require(
            self.width.saturating_mul(self.height) <= PIXELS_MAX,
            "width",
            || {
                format!(
                    "times height must be at most {PIXELS_MAX} pixels (got {}x{})",
                    self.width, self.height
                )
            },
        );
        check.range(
            "motion_bucket_id",
            self.motion_bucket_id,
            0,
            MOTION_BUCKET_MAX,
        );
        check.range(
            "noise_aug_strength",
            self.noise_aug_strength,
            0.0,
            NOISE_AUG_MAX,
        );
        check.range(
            "min_guidance_scale",
            self.min_guidance_scale,
            0.0,
            GUIDANCE_MAX,
        );
        check.range(
            "max_guidance_scale",
            self.max_guidance_scale,
            0.0,
            GUIDANCE_MAX,
        );
        check.range(
            "decode_chunk_size",
            self.decode_chunk_size,
            1,
            self.frames.max(1),
        );
        check.range("seed", self.seed, 0, SEED_MAX);
        check.adapters("adapters", &self.adapters);
        if let Some(keyframe) = self.keyframe() {
            keyframe.check(&mut check);
        }
        check.finish()
    }

    /// The model and its adapters, and those of the keyframe before them.
    pub fn stages(&self) -> impl Iterator<Item = (&ModelId, &[AdapterUse])> {
        let keyframe = self.keyframe().map(|k| (&k.model, &k.adapters[..]));
        keyframe
            .into_iter()
            .chain([(&self.model, &self.adapters[..])])
    }

    /// The stage before the clip, if the picture is made from words.
    pub fn keyframe(&self) -> Option<&KeyframeSpec> {
        match &self.first_frame {
            FirstFrame::Image(_) => None,
            FirstFrame::Keyframe(keyframe) => Some(keyframe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RenderSpec {
        let adapter = AdapterUse {
            sha256: Sha256::from_bytes([2; 32]),
            weight: 1.0,
        };
        RenderSpec {
            adapters: vec![adapter],
            frames: 8,
            decode_chunk_size: 4,
            steps: 5,
            height: 32,
            ..RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32]))
        }
    }

    fn check(change: impl FnOnce(&mut RenderSpec), expected: &[&str]) {
        let mut spec = good();
        change(&mut spec);
        let limits = SpecLimits {
            side_multiple: 8,
            frames_max: 25,
        };
        let fields: Vec<String> = spec
            .validate(&limits)
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|invalid| invalid.field)
            .collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn every_field_out_of_range_is_named() {
        check(|_| {}, &[]);
        check(|s| s.frames = 0, &["frames", "decode_chunk_size"]);
        check(|s| s.frames = 26, &["frames"]);
        check(|s| s.fps = 61, &["fps"]);
        check(|s| s.steps = 0, &["steps"]);
        check(|s| s.width = 60, &["width"]);
        check(|s| s.height = 4096, &["height"]);
        check(|s| (s.width, s.height) = (2048, 2048), &["width"]);
        check(|s| s.motion_bucket_id = 256, &["motion_bucket_id"]);
        check(|s| s.noise_aug_strength = f32::NAN, &["noise_aug_strength"]);
        check(|s| s.max_guidance_scale = -1.0, &["max_guidance_scale"]);
        check(|s| s.decode_chunk_size = 9, &["decode_chunk_size"]);
        check(|s| s.seed = SEED_MAX + 1, &["seed"]);
        check(|s| s.adapters[0].weight = 5.0, &["adapters[0].weight"]);
        check(|s| s.adapters.push(s.adapters[0].clone()), &["adapters[1]"]);
        check(
            |s| (s.frames, s.fps) = (0, 0),
            &["frames", "fps", "decode_chunk_size"],
        );
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let mut json = serde_json::to_value(good()).unwrap();
        json["price"] = 0.into();
        assert!(
            serde_json::from_value::<RenderSpec>(json)
                .unwrap_err()
                .to_string()
                .contains("price")
        );
    }
}

//! The stage before the clip: words become the picture that is then animated.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::AdapterUse;
use super::check::Check;
use crate::ids::ModelId;
use crate::limits::*;

/// Everything that, with the keyframe model and the device class, determines the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyframeSpec {
    pub model: ModelId,
    /// What the picture shall show, not empty.
    pub prompt: Words,
    /// What it shall not; empty for nothing in particular, and without guidance.
    #[serde(default)]
    pub negative_prompt: Words,
    /// Those for the keyframe model, as [`super::RenderSpec::adapters`].
    #[serde(default)]
    pub adapters: Vec<AdapterUse>,
    /// The picture's own size; the clip resamples it to its own.
    pub width: u32,
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    pub sampler: KeyframeSampler,
    /// 0..=[`GUIDANCE_MAX`]; without guidance at 1 or less.
    pub guidance_scale: f32,
    /// 0..=2^53-1.
    pub seed: u64,
}

/// How to go from one noise level to the next, with the spacing of timesteps that the model's folder names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyframeSampler {
    /// Without its random part (eta 0).
    #[default]
    Ddim,
    Euler,
}

/// What a user wrote. Never logged.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Words(String);

impl Words {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Words {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Hides what was written.
impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({} bytes)", self.0.len())
    }
}

impl KeyframeSpec {
    /// What a user leaves out: the defaults of diffusers' `StableDiffusionPipeline.__call__`.
    pub const STEPS: u32 = 50;
    pub const GUIDANCE_SCALE: f32 = 7.5;

    /// A picture that is there in a moment, as [`super::RenderSpec::small`]: 64x48 in 2 steps, else the defaults, and seed 0.
    pub fn small(model: ModelId, prompt: &str) -> Self {
        Self {
            model,
            prompt: Words::from(prompt),
            negative_prompt: Words::default(),
            adapters: Vec::new(),
            width: 64,
            height: 48,
            steps: 2,
            sampler: KeyframeSampler::default(),
            guidance_scale: Self::GUIDANCE_SCALE,
            seed: 0,
        }
    }

    pub(super) fn check(&self, check: &mut Check) {
        check.require(!self.prompt.as_str().trim().is_empty(), "prompt", || {
            "must say what the picture shows".to_owned()
        });
        for (field, words) in [
            ("prompt", &self.prompt),
            ("negative_prompt", &self.negative_prompt),
        ] {
            let length = words.as_str().chars().count();
            check.require(length <= PROMPT_CHARS_MAX, field, || {
                format!("must be at most {PROMPT_CHARS_MAX} characters long (got {length})")
            });
            check.require(!words.as_str().contains('\0'), field, || {
                "must not hold NUL".to_owned()
            });
        }
        check.require(
            self.guidance_scale > 1.0 || self.negative_prompt.as_str().is_empty(),
            "negative_prompt",
            || "changes nothing without guidance: set keyframe.guidance_scale over 1".to_owned(),
        );
        for (field, side) in [
            ("keyframe.width", self.width),
            ("keyframe.height", self.height),
        ] {
            check.range(field, side, SIDE_PX_MIN, SIDE_PX_MAX);
            check.require(side.is_multiple_of(SIDE_PX_MULTIPLE), field, || {
                format!("must be a multiple of {SIDE_PX_MULTIPLE} (got {side})")
            });
        }
        check.require(
            self.width.saturating_mul(self.height) <= KEYFRAME_PIXELS_MAX,
            "keyframe.width",
            || {
                format!(
                    "times height must be at most {KEYFRAME_PIXELS_MAX} pixels (got {}x{})",
                    self.width, self.height
                )
            },
        );
        check.range("keyframe.steps", self.steps, STEPS_MIN, STEPS_MAX);
        check.range(
            "keyframe.guidance_scale",
            self.guidance_scale,
            0.0,
            GUIDANCE_MAX,
        );
        check.range("keyframe.seed", self.seed, 0, SEED_MAX);
        check.adapters("keyframe.adapters", &self.adapters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Sha256;

    fn check(change: impl FnOnce(&mut KeyframeSpec), expected: &[&str]) {
        let mut spec = KeyframeSpec {
            model: "words".parse().unwrap(),
            prompt: "a lighthouse".into(),
            negative_prompt: "fog".into(),
            adapters: vec![AdapterUse {
                sha256: Sha256::from_bytes([2; 32]),
                weight: 1.0,
            }],
            width: 512,
            height: 512,
            steps: KeyframeSpec::STEPS,
            sampler: KeyframeSampler::default(),
            guidance_scale: KeyframeSpec::GUIDANCE_SCALE,
            seed: 0,
        };
        change(&mut spec);
        let mut check = Check::default();
        spec.check(&mut check);
        let fields: Vec<String> = check
            .finish()
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
        check(|s| s.prompt = " \n".into(), &["prompt"]);
        let long = "a".repeat(PROMPT_CHARS_MAX + 1);
        check(|s| s.prompt = long.as_str().into(), &["prompt"]);
        check(|s| s.negative_prompt = "a\0b".into(), &["negative_prompt"]);
        check(|s| s.width = 60, &["keyframe.width"]);
        check(|s| s.height = 4096, &["keyframe.height", "keyframe.width"]);
        check(|s| (s.width, s.height) = (1032, 1024), &["keyframe.width"]);
        check(|s| s.steps = 0, &["keyframe.steps"]);
        check(
            |s| s.guidance_scale = f32::NAN,
            &["negative_prompt", "keyframe.guidance_scale"],
        );
        check(|s| s.seed = SEED_MAX + 1, &["keyframe.seed"]);
        check(
            |s| s.adapters[0].weight = 5.0,
            &["keyframe.adapters[0].weight"],
        );
    }

    #[test]
    fn a_negative_prompt_without_guidance_is_refused_because_it_would_change_nothing() {
        check(|s| s.guidance_scale = 1.0, &["negative_prompt"]);
        check(
            |s| (s.guidance_scale, s.negative_prompt) = (1.0, Words::default()),
            &[],
        );
    }

    #[test]
    fn words_hide_themselves() {
        let shown = format!("{:?}", Words::from("a lighthouse"));
        assert_eq!(shown, "Words(12 bytes)");
    }
}

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flowai_model::safetensors::Dtype;
use flowai_model::{Preset, synthetic};
use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::Side;

/// Presets that have a job here.
pub(crate) const NAMES: [&str; 2] = ["tiny", "middle"];

/// A model folder with random weights, a picture and a spec, in a folder that goes away with the value.
pub(crate) struct Case {
    dir: TempDir,
    preset: Preset,
    spec: Value,
}

impl Case {
    pub(crate) fn write(preset: Preset, threads: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let spec = spec(preset, threads)?;
        let model = dir.path().join("model");
        synthetic::write_model(&model, &preset.config(), 0, Dtype::F32)?;
        fs::write(dir.path().join("spec.json"), spec.to_string())?;
        picture(&spec)?.save(dir.path().join("first.png"))?;
        Ok(Self { dir, preset, spec })
    }

    pub(crate) fn name(&self) -> String {
        self.preset.to_string()
    }

    pub(crate) fn spec(&self) -> &Value {
        &self.spec
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.dir.path().join("first.png")
    }

    pub(crate) fn spec_file(&self) -> PathBuf {
        self.dir.path().join("spec.json")
    }

    pub(crate) fn previews(&self) -> PathBuf {
        self.dir.path().join("previews.safetensors")
    }

    /// Where a side leaves its frames.
    pub(crate) fn frames(&self, side: Side) -> PathBuf {
        self.dir.path().join(format!("{side}.safetensors"))
    }

    /// The largest difference between the frames of two sides, whose values are 0..1.
    pub(crate) fn frames_difference(&self, a: Side, b: Side) -> Result<f32> {
        difference(
            &read_frames(&self.frames(a))?,
            &read_frames(&self.frames(b))?,
        )
    }
}

/// The largest distance between two values at one place. Errors: a distance that is no number, which no bound would catch.
fn difference(a: &[f32], b: &[f32]) -> Result<f32> {
    ensure!(a.len() == b.len(), "frames are not of one size");
    let mut largest: f32 = 0.0;
    for (place, (a, b)) in a.iter().zip(b).enumerate() {
        let distance = (a - b).abs();
        ensure!(
            distance.is_finite(),
            "frames are not finite: {a} and {b} at value {place}"
        );
        largest = largest.max(distance);
    }
    Ok(largest)
}

/// Guidance, all frames decoded together, and enough steps to outweigh what happens once.
fn spec(preset: Preset, threads: usize) -> Result<Value> {
    let (pixels, frames, steps) = match preset {
        // Latents 32 x 32 both.
        Preset::Tiny => (64, 8, 4),
        Preset::Middle => (256, 8, 4),
        Preset::Dummy | Preset::Small | Preset::FullSvd => {
            bail!("--case must be tiny or middle (got {preset})")
        }
    };
    Ok(json!({
        "height": pixels,
        "width": pixels,
        "frames": frames,
        "steps": steps,
        "fps": 7,
        "motion_bucket_id": 127,
        "noise_aug_strength": 0.02,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 3.0,
        "decode_chunk_size": frames,
        "seed": 0,
        "dtype": "fp32",
        "threads": threads,
    }))
}

/// Colours that change in every direction, in the job's size.
fn picture(spec: &Value) -> Result<RgbImage> {
    let side = |name: &str| {
        let pixels = spec[name].as_u64().and_then(|n| u32::try_from(n).ok());
        pixels.with_context(|| format!("spec: {name} must be a number"))
    };
    let colour = |x, y| Rgb([x, y, x ^ y].map(|value: u32| (value * 7 % 256) as u8));
    Ok(RgbImage::from_fn(side("width")?, side("height")?, colour))
}

fn read_frames(path: &Path) -> Result<Vec<f32>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let file = SafeTensors::deserialize(&bytes)?;
    let frames = file.tensor("frames")?;
    ensure!(
        frames.dtype() == safetensors::Dtype::F32,
        "frames must be f32"
    );
    let values = frames.data().chunks_exact(4);
    Ok(values
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_are_no_numbers_are_never_the_same_work() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..3 {
                let good = [0.25, 0.5, 0.75];
                let mut frames = good;
                frames[place] = bad;
                assert!(difference(&frames, &good).is_err(), "{bad} at {place}");
                assert!(difference(&good, &frames).is_err(), "{bad} at {place}");
                assert!(difference(&frames, &frames).is_err(), "{bad} in both");
            }
        }
        assert_eq!(
            difference(&[0.0, 0.5, 1.0], &[0.25, 0.5, 1.0]).ok(),
            Some(0.25)
        );
        assert!(difference(&[0.0], &[0.0, 0.0]).is_err());
    }
}

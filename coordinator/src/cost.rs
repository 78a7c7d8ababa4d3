//! What a render is predicted to take, before any node has measured it: the price in fairness.

use flowai_actors::ids::GpuSeconds;
use flowai_actors::spec::RenderSpec;

/// SVD-XT's usual clip, and what it takes on a GPU of the data centre: only the ratio between jobs matters.
const REFERENCE_FRAMES: f64 = 25.0;
const REFERENCE_PIXELS: f64 = 1_024.0 * 576.0;
const REFERENCE_STEPS: f64 = 25.0;
const REFERENCE_SECONDS: f64 = 60.0;
/// Steps that the two passes of the VAE and the encoder are worth.
const FIXED_STEPS: f64 = 3.0;

/// Grows with frames, pixels and steps; attention's growth with the square of the pixels is left out. A keyframe counts as a frame
/// more, of its own size and steps: its model is about as large.
pub(crate) fn predicted(spec: &RenderSpec) -> GpuSeconds {
    let clip = seconds(spec.frames, spec.width, spec.height, spec.steps);
    let keyframe = spec.keyframe();
    let keyframe = keyframe.map_or(0.0, |k| seconds(1, k.width, k.height, k.steps));
    GpuSeconds(clip + keyframe)
}

fn seconds(frames: u32, width: u32, height: u32, steps: u32) -> f64 {
    let pixels = f64::from(width) * f64::from(height);
    let frames = f64::from(frames) / REFERENCE_FRAMES;
    let steps = (f64::from(steps) + FIXED_STEPS) / (REFERENCE_STEPS + FIXED_STEPS);
    REFERENCE_SECONDS * frames * steps * pixels / REFERENCE_PIXELS
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::Sha256;
    use flowai_actors::spec::{FirstFrame, KeyframeSpec};

    use super::*;

    #[test]
    fn a_render_grows_with_its_frames_its_pixels_and_its_steps() {
        let usual = |frames, width, steps| seconds(frames, width, 576, steps);
        let near = |cost: f64, expected: f64| assert!((cost - expected).abs() < 1e-9);
        near(usual(25, 1_024, 25), 60.0);
        near(usual(50, 1_024, 25), 120.0);
        near(usual(25, 512, 25), 30.0);
        near(usual(25, 1_024, 53), 120.0);
    }

    #[test]
    fn a_keyframe_costs_what_a_frame_of_its_own_does() {
        let model = || "m".parse().unwrap();
        let clip = RenderSpec {
            frames: 25,
            width: 1_024,
            height: 576,
            steps: 25,
            ..RenderSpec::small(model(), Sha256::from_bytes([1; 32]))
        };
        let keyframe = KeyframeSpec {
            width: 1_024,
            height: 576,
            steps: 25,
            ..KeyframeSpec::small(model(), "a cat")
        };
        let both = RenderSpec {
            first_frame: FirstFrame::Keyframe(Box::new(keyframe)),
            ..clip.clone()
        };
        let near = |cost: GpuSeconds, expected: f64| assert!((cost.0 - expected).abs() < 1e-9);
        near(predicted(&clip), 60.0);
        near(predicted(&both), 60.0 + 60.0 / 25.0);
    }
}

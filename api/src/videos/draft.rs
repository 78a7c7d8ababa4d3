//! A draft: what is rendered to see whether the full video is worth it.

use flowai_actors::limits::SIDE_PX_MIN;
use flowai_actors::spec::{RenderSpec, SpecLimits};

use crate::models::decode_chunk_size;

/// Enough to tell what moves and how; the default is 25.
const STEPS: u32 = 8;
/// A second and a bit at the default rate. The rate itself stays: it conditions the motion.
const FRAMES: u32 = 8;
/// What 1024x576 comes to at half its sides, rounded to SVD's multiple: less, and a trained model draws another scene.
const PIXELS: f64 = 512.0 * 320.0;

/// The draft of a full spec: at most so many steps, frames and, about, pixels, in the same shape, from the same seed and the same
/// first frame, which is made in full. It is never more than the full spec.
pub(super) fn of(full: &RenderSpec, limits: &SpecLimits) -> RenderSpec {
    let frames = full.frames.min(FRAMES);
    let scale = (PIXELS / (f64::from(full.width) * f64::from(full.height))).sqrt();
    let multiple = limits.side_multiple.max(1);
    let least = SIDE_PX_MIN.next_multiple_of(multiple);
    let side = |full: u32| {
        let nearest = (f64::from(full) * scale / f64::from(multiple)).round() as u32;
        nearest.saturating_mul(multiple).max(least).min(full)
    };
    RenderSpec {
        frames,
        steps: full.steps.min(STEPS),
        width: side(full.width),
        height: side(full.height),
        // Its frames are fewer and smaller: what fits for them is not what was asked for the full ones.
        decode_chunk_size: match frames == full.frames {
            true => full.decode_chunk_size,
            false => decode_chunk_size(frames),
        },
        ..full.clone()
    }
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::Sha256;

    use super::*;

    const SVD: SpecLimits = SpecLimits {
        side_multiple: 64,
        frames_max: 25,
    };

    fn full(frames: u32, steps: u32, width: u32, height: u32) -> RenderSpec {
        RenderSpec {
            frames,
            steps,
            width,
            height,
            decode_chunk_size: decode_chunk_size(frames),
            seed: 42,
            ..RenderSpec::small("m".parse().unwrap(), Sha256::from_bytes([1; 32]))
        }
    }

    #[test]
    fn a_draft_is_small_and_in_the_same_shape() {
        let check = |size: (u32, u32), expected: (u32, u32)| {
            let draft = of(&full(25, 25, size.0, size.1), &SVD);
            assert_eq!((draft.width, draft.height), expected, "{size:?}");
            assert_eq!((draft.frames, draft.steps, draft.seed), (8, 8, 42));
            assert_eq!(draft.decode_chunk_size, 8, "no frame is decoded alone");
        };
        check((1024, 576), (512, 320));
        check((576, 1024), (320, 512));
        check((768, 768), (384, 384));
        check((2048, 64), (2048, 64));
        check((256, 192), (256, 192));
    }

    #[test]
    fn a_draft_is_never_more_than_its_final_and_always_possible() {
        for frames in [1, 2, 8, 9, 25] {
            for width in (64..=2048).step_by(64) {
                for height in (64..=2048)
                    .step_by(64)
                    .filter(|h| width * h <= 1_920 * 1_088)
                {
                    let full = full(frames, 3, width, height);
                    let draft = of(&full, &SVD);
                    assert_eq!(draft.validate(&SVD), Ok(()), "{width}x{height}");
                    assert!(draft.width <= width && draft.height <= height);
                    assert!(draft.frames <= frames && draft.steps == 3);
                }
            }
        }
        let same = full(2, 2, 64, 64);
        assert_eq!(of(&same, &SVD), same);
    }
}

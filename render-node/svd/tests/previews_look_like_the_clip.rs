//! Goal: a preview shows what the clip will be, and changes no bit of it.
//! Method: the model that was trained here animates a photograph; a preview after every step is compared with the frames that
//! the decoder makes in the end, and the clip with one that nobody looked at.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flowai_svd::{
    DeviceName, Dtype, Engine, EngineError, Frames, LoadOptions, Picture, Preview, PreviewMap, Spec,
};
use serde_json::json;

const FRAMES: usize = 8;
const SIDE: usize = 96;
const STEPS: usize = 6;
/// Of the colours with the clip's. Measured: 0.967.
const LIKENESS_MIN: f64 = 0.95;
/// Mean difference of a colour from the clip's, of 0..=255.
const DIFFERENCE_MAX: f64 = 12.0;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn engine() -> Engine {
    let model = repository().join("ops/tiny-model/model");
    let options = LoadOptions {
        dtype: Dtype::Fp32,
        device: DeviceName::Cpu,
        threads: Some(1),
        identity: None,
    };
    Engine::load(&model, options).unwrap()
}

struct Clip {
    /// (F, 3, H, W) in 0..1.
    frames: Vec<f32>,
    previews: Vec<Preview>,
}

fn render(engine: &Engine, map: Option<&PreviewMap>) -> Clip {
    let picture = Picture::open(&repository().join("cli/assets/chelsea.png")).unwrap();
    let fields = json!({
        "height": SIDE, "width": SIDE, "frames": FRAMES, "steps": STEPS, "decode_chunk_size": FRAMES,
        "min_guidance_scale": 1.0, "max_guidance_scale": 1.0, "seed": 7,
    });
    let spec = Spec::from_json(fields.as_object().unwrap(), engine.config()).unwrap();
    let conditioning = engine.prepare(&spec, &picture).unwrap();
    let mut run = engine.start(&conditioning).unwrap();
    let mut previews = Vec::new();
    if let Some(map) = map {
        assert_eq!(run.preview(map).unwrap(), None, "nothing is guessed yet");
    }
    while !run.is_finished() {
        run.step().unwrap();
        if let Some(map) = map {
            previews.push(run.preview(map).unwrap().unwrap());
        }
    }
    let mut frames = Vec::new();
    run.decode(|chunk: Frames| -> Result<(), EngineError> {
        frames.extend(chunk.to_f32()?);
        Ok(())
    })
    .unwrap();
    Clip { frames, previews }
}

/// The engine, its map, a clip that was looked at, and the same that was not.
static RENDERED: LazyLock<(PreviewMap, usize, Clip, Clip)> = LazyLock::new(|| {
    let engine = engine();
    let map = engine.fit_preview().unwrap();
    let factor = engine.config().vae_scale_factor();
    let with = render(&engine, Some(&map));
    let without = render(&engine, None);
    (map, factor, with, without)
});

/// Mean colours of squares of `factor` pixels: frame, row, column, channel, as a preview has them.
fn shrunk(frames: &[f32], factor: usize) -> Vec<f64> {
    let (height, width) = (SIDE, SIDE);
    let mut colours = Vec::new();
    for frame in frames.chunks(3 * height * width) {
        for y in 0..height / factor {
            for x in 0..width / factor {
                for channel in frame.chunks(height * width) {
                    let square = (0..factor * factor).map(|i| {
                        let (row, column) = (y * factor + i / factor, x * factor + i % factor);
                        f64::from(channel[row * width + column].clamp(0.0, 1.0))
                    });
                    colours.push(square.sum::<f64>() / (factor * factor) as f64);
                }
            }
        }
    }
    colours
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let moment = |x: &[f64], mx: f64, y: &[f64], my: f64| {
        x.iter()
            .zip(y)
            .map(|(x, y)| (x - mx) * (y - my))
            .sum::<f64>()
    };
    moment(a, mean_a, b, mean_b)
        / (moment(a, mean_a, a, mean_a) * moment(b, mean_b, b, mean_b)).sqrt()
}

#[test]
fn a_preview_changes_no_bit_of_the_clip() {
    let (_, _, with, without) = &*RENDERED;
    let bits = |clip: &Clip| clip.frames.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(with) == bits(without));
}

#[test]
fn a_preview_is_a_small_clip_of_each_step() {
    let (_, factor, with, _) = &*RENDERED;
    let side = SIDE / factor;
    assert_eq!(with.previews.len(), STEPS);
    for (i, preview) in with.previews.iter().enumerate() {
        assert_eq!((preview.step, preview.frames.len()), (i + 1, FRAMES));
        let sides = (preview.height as usize, preview.width as usize);
        assert_eq!(sides, (side, side));
        assert!(
            preview
                .frames
                .iter()
                .all(|frame| frame.len() == 3 * side * side)
        );
    }
}

#[test]
fn previews_look_more_and_more_like_the_clip() {
    let (_, factor, with, _) = &*RENDERED;
    let clip = shrunk(&with.frames, *factor);
    let likeness: Vec<f64> = with
        .previews
        .iter()
        .map(|preview| {
            let pixels: Vec<f64> = preview
                .frames
                .concat()
                .iter()
                .map(|&b| f64::from(b))
                .collect();
            correlation(&pixels, &clip)
        })
        .collect();
    println!("correlation with the clip after each step: {likeness:.3?}");
    assert!(
        likeness.last().is_some_and(|last| *last >= LIKENESS_MIN),
        "{likeness:.3?}"
    );
    assert!(likeness.first() < likeness.last(), "{likeness:.3?}");
    // Likeness is blind to a wrong brightness and a wrong contrast.
    let last = with.previews.last().unwrap().frames.concat();
    let differences = last
        .iter()
        .zip(&clip)
        .map(|(&b, c)| (f64::from(b) - 255.0 * c).abs());
    let difference = differences.sum::<f64>() / last.len() as f64;
    println!("mean difference of a colour after the last step: {difference:.1} of 255");
    assert!(difference <= DIFFERENCE_MAX, "{difference:.1}");
}

#[test]
fn a_map_is_a_function_of_the_model() {
    let (map, _, _, _) = &*RENDERED;
    let engine = engine();
    assert!(map.fits(&engine.config().vae));
    assert_eq!(engine.fit_preview().unwrap(), *map);
}

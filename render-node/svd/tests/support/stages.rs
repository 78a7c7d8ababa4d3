//! A whole render, stage by stage, under the names of `oracle/pipeline.py`.

use std::path::Path;

use flowai_svd::{Conditioning, Engine, EngineError, Picture, Spec};
use serde_json::{Value, json};
use tch::Tensor;

use super::compare::{Difference, difference};
use super::models::Model;
use super::oracle::Tensors;

/// A job for `oracle/pipeline.py`, still without its picture.
pub(crate) fn job(name: &str, model: &Model, dtype: &str, noise_dtype: &str, spec: &Spec) -> Value {
    json!({
        "name": name,
        "model": model.path(),
        "dtype": dtype,
        "noise_dtype": noise_dtype,
        "spec": spec,
    })
}

pub(crate) fn render(engine: &Engine, spec: &Spec, image: &Path) -> Tensors {
    let picture = Picture::open(image).unwrap();
    finish(engine, spec, engine.prepare(spec, &picture).unwrap())
}

/// Denoises and decodes; the conditioning's own stages are kept too.
pub(crate) fn finish(engine: &Engine, spec: &Spec, conditioning: Conditioning) -> Tensors {
    let mut stages = Tensors::new();
    let mut keep = |name: String, tensor: &Tensor| stages.insert(name, tensor.copy());
    keep("image_embeds".to_owned(), &conditioning.image_embeds);
    keep("image_latents".to_owned(), &conditioning.image_latents);
    let mut run = engine.start(&conditioning).unwrap();
    while !run.is_finished() {
        let step = run.step().unwrap().step;
        keep(format!("latents_{}", step - 1), run.latents());
    }
    let mut frames = Vec::new();
    run.decode(|chunk| -> Result<(), EngineError> {
        assert_eq!(
            frames.len(),
            chunk.first * 3 * (spec.height * spec.width) as usize
        );
        frames.extend(chunk.to_f32()?);
        Ok(())
    })
    .unwrap();
    let shape = [spec.frames, 3, spec.height, spec.width].map(i64::from);
    keep(
        "frames".to_owned(),
        &Tensor::from_slice(&frames).view(shape),
    );
    stages
}

/// Latents are compared relative to their size, up to 700 before the first steps; the frames are what is promised.
pub(crate) fn compare(job: &str, found: &Tensors, expected: &Tensors) {
    let prefix = format!("{job}.");
    let stages: Vec<&str> = expected
        .keys()
        .filter_map(|key| key.strip_prefix(&prefix))
        .collect();
    assert_eq!(stages, found.keys().collect::<Vec<_>>(), "{job}: stages");
    for stage in stages {
        let name = format!("{job}, {stage}");
        let difference = difference(&name, &found[stage], &expected[&format!("{prefix}{stage}")]);
        if stage == "frames" {
            let Difference {
                max_abs, mean_abs, ..
            } = difference;
            assert!(
                max_abs <= 1e-3 && mean_abs <= 1e-4,
                "{name}: {difference:?}"
            );
        } else {
            assert!(difference.relative_l2 <= 1e-4, "{name}: {difference:?}");
        }
    }
}

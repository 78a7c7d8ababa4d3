//! A whole render, stage by stage, under the names of `oracle/pipeline.py`.

use std::path::Path;

use flowai_svd::{Conditioning, Engine, EngineError, Picture, Spec};
use serde_json::{Value, json};
use tch::{Device, Tensor};

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
    let mut keep = |name: String, tensor: &Tensor| {
        // A copy also where it is on the CPU already: steps may write into their latents.
        stages.insert(name, tensor.to_device(Device::Cpu).copy())
    };
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

/// The jobs that [`compare_half`] needs: fp32 from the noise of the half precision, and that precision itself.
pub(crate) fn half_jobs(model: &Path, image: &Path, half: &str, spec: &Spec) -> Value {
    let job = |name: &str, dtype: &str| {
        json!({
            "name": name,
            "model": model,
            "dtype": dtype,
            "noise_dtype": half,
            "spec": spec,
            "image": image,
        })
    };
    json!({ "jobs": [job("exact", "fp32"), job("theirs", half)] })
}

/// With 16 bits the errors of both sides are large; ours must not be larger, but for a fifth.
pub(crate) fn compare_half(half: &str, found: &Tensors, expected: &Tensors) {
    let last_latents = found.keys().rfind(|stage| stage.starts_with("latents_"));
    let stages = ["image_embeds", "image_latents", "latents_0"];
    for stage in stages
        .into_iter()
        .chain(last_latents.map(String::as_str))
        .chain(["frames"])
    {
        let exact = &expected[&format!("exact.{stage}")];
        let theirs = &expected[&format!("theirs.{stage}")];
        let theirs = difference(&format!("diffusers' {half} {stage}"), theirs, exact);
        let ours = difference(&format!("our {half} {stage}"), &found[stage], exact);
        assert!(
            ours.relative_l2 <= 1.2 * theirs.relative_l2,
            "{stage}: our error is over 1.2 times theirs"
        );
    }
}

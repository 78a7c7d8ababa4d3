//! Goal: a machine without Python can tell whether the engine still equals diffusers.
//! Method: what diffusers made of two small models is in `tests/goldens/`; weights and pictures are made of names, so nothing
//! else is stored. Where the oracle is at hand, the files themselves are compared with it.
//!
//! After a change of the cases below, or of how weights are made, write the files anew:
//! `FLOWAI_WRITE_GOLDENS=1 cargo test -p flowai-svd --features oracle --test goldens`
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use flowai_model::config::ModelConfig;
use flowai_svd::{Dtype, Picture, Spec};
use support::compare::assert_close;
use support::inputs;
use support::models::{self, Model};
use support::oracle::Tensors;
use support::stages::{compare, render};
use tch::{Kind, Tensor};

struct Case {
    name: &'static str,
    config: ModelConfig,
    /// Of the weights.
    seed: u64,
    spec: Spec,
}

fn cases() -> [Case; 2] {
    let spec = Spec {
        height: 16,
        width: 24,
        frames: 3,
        steps: 2,
        fps: 9,
        motion_bucket_id: 80,
        noise_aug_strength: 0.05,
        min_guidance_scale: 1.0,
        max_guidance_scale: 2.5,
        decode_chunk_size: 2,
        seed: 99,
    };
    let portrait = Spec {
        height: 40,
        width: 24,
        ..spec.clone()
    };
    [
        Case {
            name: "dummy",
            config: models::dummy(),
            seed: 40,
            spec,
        },
        Case {
            name: "four_levels",
            config: models::four_levels(),
            seed: 41,
            spec: portrait,
        },
    ]
}

/// Width and height of the picture that clips start from, and what it is resized to alone.
const PICTURE: (u32, u32) = (100, 75);
const RESIZED: (u32, u32) = (48, 32);
/// Sides of CLIP's input, below and above which the picture is.
const CLIP_SIZES: [i64; 2] = [32, 80];

fn path(name: &str) -> PathBuf {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    goldens.join(format!("{name}.safetensors"))
}

fn read(name: &str) -> Tensors {
    Tensor::read_safetensors(path(name))
        .unwrap()
        .into_iter()
        .collect()
}

#[test]
fn clips_equal_the_goldens() {
    for case in cases() {
        let model = Model::write(&case.config, case.seed);
        let image = inputs::write_picture(model.scratch(), PICTURE.0, PICTURE.1);
        let found = render(&model.engine(Dtype::Fp32), &case.spec, &image);
        compare(case.name, &found, &read(case.name));
    }
}

#[test]
fn pictures_equal_the_goldens() {
    let (width, height) = PICTURE;
    let rgb = inputs::picture(width, height).into_raw();
    let picture = Picture::from_rgb(width, height, rgb).unwrap();
    let goldens = read("picture");

    let resized = picture.resized(RESIZED.0, RESIZED.1).unwrap();
    let size = [resized.height().into(), resized.width().into(), 3];
    let resized = Tensor::from_data_size(resized.rgb(), &size, Kind::Uint8);
    assert!(
        resized.equal(&goldens["resized"]),
        "Lanczos differs from Pillow's"
    );

    let clip = models::dummy().preprocessor;
    for side in CLIP_SIZES {
        let pixels = picture
            .clip_pixels(side, clip.image_mean, clip.image_std)
            .unwrap();
        let name = format!("clip_{side}");
        assert_close(&name, &pixels, &goldens[&name], 1e-5);
    }
}

#[cfg(feature = "oracle")]
mod with_oracle {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::support::oracle;
    use crate::support::stages::job;

    /// Compares what diffusers says now with the file, or writes the file.
    fn check(name: &str, now: &Tensors) {
        if std::env::var_os("FLOWAI_WRITE_GOLDENS").is_some() {
            let tensors: Vec<(&String, &Tensor)> = now.iter().collect();
            Tensor::write_safetensors(&tensors, path(name)).unwrap();
            return;
        }
        let stored = read(name);
        assert_eq!(
            stored.keys().collect::<Vec<_>>(),
            now.keys().collect::<Vec<_>>(),
            "{name}: the golden file is of other cases"
        );
        for (key, tensor) in now {
            // Kernels of another CPU round otherwise.
            let largest = tensor.abs().max().double_value(&[]);
            assert_close(key, &stored[key], tensor, 1e-4 * largest);
        }
    }

    #[test]
    fn clip_goldens_are_diffusers() {
        let dir = tempfile::tempdir().unwrap();
        let image = inputs::write_picture(dir.path(), PICTURE.0, PICTURE.1);
        for case in cases() {
            let model = Model::write(&case.config, case.seed);
            let mut job = job(case.name, &model, "fp32", "fp32", &case.spec);
            job["image"] = json!(image);
            let now = oracle::ask("pipeline.py", &json!({ "jobs": [job] }), &[]);
            check(case.name, &now);
        }
    }

    #[test]
    fn picture_goldens_are_pillows() {
        let dir = tempfile::tempdir().unwrap();
        let file = inputs::write_picture(dir.path(), PICTURE.0, PICTURE.1);
        let (width, height) = RESIZED;
        let pictures = CLIP_SIZES.map(|side| {
            json!({
                "name": side.to_string(), "file": file, "width": width, "height": height, "clip_size": side,
            })
        });
        let said = oracle::ask("pictures.py", &json!({ "pictures": pictures }), &[]);
        let mut now = BTreeMap::new();
        for side in CLIP_SIZES {
            now.insert(format!("clip_{side}"), said[&format!("{side}.clip")].copy());
            now.insert(
                "resized".to_owned(),
                said[&format!("{side}.resized")].copy(),
            );
        }
        check("picture", &now);
    }
}

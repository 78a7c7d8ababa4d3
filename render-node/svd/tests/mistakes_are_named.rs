//! Goal: whoever mistypes something is told what it was, before a long run and not after it.
//! Method: the program with one mistake at a time; it must say the field or option, and leave no frames.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;

use flowai_model::Preset;
use serde_json::{Value, json};
use support::inputs;
use support::models::Model;
use support::program::Animate;

const OUT: [&str; 2] = ["--out", "frames"];

fn spec() -> Value {
    json!({ "height": 16, "width": 24, "frames": 2, "steps": 1, "threads": 1 })
}

fn with_program(test: impl FnOnce(&Animate)) {
    let model = Model::write(&Preset::Tiny.config(), 70);
    let image = inputs::write_picture(model.scratch(), 60, 40);
    let path = model.path();
    test(&Animate {
        model: &path,
        image: &image,
        dir: model.scratch(),
    });
    assert!(!model.scratch().join("frames").exists(), "wrote frames");
}

#[test]
fn in_the_spec() {
    with_program(|animate| {
        let check = |field: &str, value: Value, expected: &str| {
            let mut spec = spec();
            spec[field] = value;
            let said = animate.refusal(&spec, &OUT);
            let field = format!("error: spec: {field}");
            assert!(
                said.starts_with(&field) && said.contains(expected),
                "{said}"
            );
        };
        check("hight", json!(16), "is no field of a spec");
        check("height", json!(17), "must be a multiple of 8 (got 17)");
        check("width", json!("24"), "must be a whole number from 0 to");
        check("frames", json!(0), "must be 1..=128 (got 0)");
        check("seed", json!(-1), "must be a whole number from 0 to");
        check(
            "dtype",
            json!("fp8"),
            "must be fp32, bf16 or fp16 (got \"fp8\")",
        );
        check(
            "device",
            json!("tpu"),
            "must be cpu, cuda or cuda:N (got \"tpu\")",
        );
        check("threads", json!(0), "must be 1..=1024 (got 0)");

        let said = animate.refusal(&json!([]), &OUT);
        assert!(said.contains("JSON object"), "{said}");
    });
}

#[test]
fn in_files_and_folders() {
    with_program(|animate| {
        let check = |animate: &Animate, arguments: &[&str], expected: &[&str]| {
            let said = animate.refusal(&spec(), arguments);
            for part in expected {
                assert_eq!(said.matches(part).count(), 1, "{part:?} once in: {said}");
            }
        };
        check(
            animate,
            &["--out", "nowhere/frames"],
            &["--out nowhere/frames", "does not exist"],
        );
        check(
            animate,
            &["--out", "model"],
            &["--out model", "is a folder"],
        );
        let dump = ["--dump-stages", "nowhere/stages"];
        check(
            animate,
            &[&OUT[..], &dump].concat(),
            &["--dump-stages nowhere/stages"],
        );
        let resume = ["--resume", "nothing"];
        check(
            animate,
            &[&OUT[..], &resume].concat(),
            &["--resume nothing", "No such file"],
        );

        let other = |model: &Path, image: &Path, expected: &[&str]| {
            let dir = animate.dir;
            check(&Animate { model, image, dir }, &OUT, expected);
        };
        let nothing = Path::new("nothing");
        other(
            nothing,
            animate.image,
            &["nothing/model_index.json", "No such file"],
        );
        other(animate.model, nothing, &["image: nothing", "No such file"]);
        let text = animate.dir.join("text.png");
        fs::write(&text, "no picture").unwrap();
        other(animate.model, &text, &["is no png, jpeg or webp"]);
        fs::remove_file(
            animate
                .model
                .join("vae/diffusion_pytorch_model.safetensors"),
        )
        .unwrap();
        other(
            animate.model,
            animate.image,
            &["model: vae: has no weights"],
        );
    });
}

//! Goal: whoever mistypes something about a keyframe is told what it was, before a long run and not after it.
//! Method: the program with one mistake at a time; it must say the field or option, and leave no picture.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;

use flowai_model::KeyframePreset;
use flowai_svd::{Dtype, EngineError, KeyframeSpec, Prompt};
use serde_json::{Map, Value, json};
use support::keyframe::{KeyframeModel, PROMPT, prompt};
use support::program::Keyframe;

const WORDS: [&str; 2] = ["--prompt", PROMPT];
const OUT: [&str; 2] = ["--out", "frame.png"];

fn spec() -> Value {
    json!({ "height": 16, "width": 24, "steps": 1, "threads": 1 })
}

fn with_program(test: impl FnOnce(&Keyframe)) {
    let model = KeyframeModel::write(&KeyframePreset::Tiny.config(), 80);
    let path = model.path();
    test(&Keyframe {
        model: &path,
        dir: model.scratch(),
    });
    assert!(
        !model.scratch().join("frame.png").exists(),
        "wrote a picture"
    );
}

#[test]
fn in_the_spec() {
    with_program(|keyframe| {
        let check = |field: &str, value: Value, expected: &str| {
            let mut spec = spec();
            spec[field] = value;
            let said = keyframe.refusal(&spec, &[WORDS, OUT].concat());
            let field = format!("error: spec: {field}");
            assert!(
                said.starts_with(&field) && said.contains(expected),
                "{said}"
            );
            assert!(!said.contains("squirrel"), "tells the prompt: {said}");
        };
        check("frames", json!(16), "is no field of a spec");
        check("height", json!(17), "must be a multiple of 8 (got 17)");
        check("steps", json!(1000), "must be 1..=999 (got 1000)");
        check(
            "sampler",
            json!("pndm"),
            "must be ddim or euler (got \"pndm\")",
        );
        check(
            "timestep_spacing",
            json!("karras"),
            "must be linspace, leading or trailing",
        );
        check("dtype", json!("fp8"), "must be fp32, bf16 or fp16");
    });
}

#[test]
fn in_words() {
    with_program(|keyframe| {
        let long = "a".repeat((16 << 10) + 1);
        let said = keyframe.refusal(&spec(), &[&["--prompt", &long], &OUT[..]].concat());
        assert!(
            said.contains("spec: prompt must be at most 16384 bytes long (got 16385)"),
            "{said}"
        );

        let mut without_guidance = spec();
        without_guidance["guidance_scale"] = json!(1);
        let negative = ["--negative-prompt", "secret words"];
        let said = keyframe.refusal(&without_guidance, &[WORDS, negative, OUT].concat());
        assert!(
            said.contains("spec: negative_prompt changes nothing without guidance"),
            "{said}"
        );
        assert!(
            !said.contains("secret") && !said.contains("squirrel"),
            "{said}"
        );
    });
}

#[test]
fn in_files_and_folders() {
    with_program(|keyframe| {
        let check = |arguments: &[&str], expected: &[&str]| {
            let said = keyframe.refusal(&spec(), &[&WORDS[..], arguments].concat());
            for part in expected {
                assert_eq!(said.matches(part).count(), 1, "{part:?} once in: {said}");
            }
        };
        check(
            &["--out", "nowhere/frame.png"],
            &["--out nowhere/frame.png", "does not exist"],
        );
        check(&["--out", "model"], &["--out model", "is a folder"]);
        let dump = ["--dump-stages", "nowhere/stages"];
        check(&[OUT, dump].concat(), &["--dump-stages nowhere/stages"]);
        let adapter = ["--adapter", "nothing.safetensors=1"];
        check(
            &[OUT, adapter].concat(),
            &["--adapter nothing.safetensors", "No such file"],
        );

        let vocabulary = keyframe.dir.join("model/tokenizer/vocab.json");
        fs::rename(&vocabulary, keyframe.dir.join("vocab.json")).unwrap();
        check(&OUT, &["tokenizer/vocab.json: cannot be read"]);
        fs::rename(keyframe.dir.join("vocab.json"), &vocabulary).unwrap();
        fs::remove_file(keyframe.dir.join("model/text_encoder/model.safetensors")).unwrap();
        check(&OUT, &["model: text_encoder: has no weights"]);
    });
}

#[test]
fn words_that_are_cut_are_told_by_their_number() {
    let model = KeyframeModel::write(&KeyframePreset::Tiny.config(), 81);
    let keyframe = Keyframe {
        model: &model.path(),
        dir: model.scratch(),
    };
    let warned = |words: &str| {
        let words = ["--prompt", words];
        let output = keyframe.output(&spec(), &[words, OUT].concat());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = warned(&"! ".repeat(80));
    assert!(
        said.contains("warning: --prompt is too long: its last 5 tokens are not read"),
        "{said}"
    );
    assert!(!warned("short").contains("warning"));
}

#[test]
fn a_run_is_decoded_when_it_is_finished_and_no_sooner() {
    let model = KeyframeModel::write(&KeyframePreset::Tiny.config(), 82);
    let keyframer = model.keyframer(Dtype::Fp32);
    let json: Map<String, Value> = json!({ "height": 16, "width": 24, "steps": 2 })
        .as_object()
        .unwrap()
        .clone();
    let spec = KeyframeSpec::from_json(&json, keyframer.config()).unwrap();
    let conditioning = keyframer.prepare(&spec, &prompt("")).unwrap();
    let mut run = keyframer.start(&conditioning).unwrap();
    run.step().unwrap();
    let early = run.decode();
    assert!(
        matches!(early, Err(EngineError::Unfinished { done: 1, steps: 2 })),
        "{early:?}"
    );
    run.step().unwrap();
    assert!(matches!(
        run.step(),
        Err(EngineError::Finished { steps: 2 })
    ));
    assert_eq!(run.decode().unwrap().count(), 1);
}

#[test]
fn prompts_are_not_shown() {
    let shown = format!("{:?}", prompt("secret"));
    assert!(
        !shown.contains("squirrel") && !shown.contains("secret"),
        "{shown}"
    );
    assert_eq!(format!("{:?}", Prompt::default()), "Prompt(..)");
}

//! Goal: a keyframe model with adapters fused makes what diffusers makes with PEFT's layers and with its own loader, text
//! encoder included, and an adapter that was taken out leaves no trace.
//! Method: random adapters in files; whole keyframes beside diffusers on the same files. Formats, switching and restoring are
//! compared bit for bit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::config::TimestepSpacing;
use flowai_model::synthetic::{self, AdapterSpec};
use flowai_model::{KeyframePreset, Preset};
use flowai_svd::keyframe::SamplerKind;
use flowai_svd::{AdapterSet, Dtype, EngineError, KeyframeSpec, Keyframer};
use serde_json::{Value, json};
use support::adapters::{self, EVERY_MODULE, bits, set};
use support::compare::difference;
use support::keyframe::{self, KeyframeModel, compare, job, prompt, render, write_adapter};
use support::oracle;

const EVERY_TEXT_MODULE: [&str; 6] = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"];

fn spec() -> KeyframeSpec {
    KeyframeSpec {
        height: 24,
        width: 40,
        steps: 2,
        sampler: SamplerKind::Euler,
        timestep_spacing: TimestepSpacing::Linspace,
        guidance_scale: 4.0,
        seed: 21,
    }
}

fn everywhere() -> Vec<&'static str> {
    EVERY_MODULE
        .iter()
        .chain(&EVERY_TEXT_MODULE)
        .copied()
        .collect()
}

fn apply(keyframer: &mut Keyframer, files: &[(PathBuf, f64)]) {
    let read = |(file, weight): &(PathBuf, f64)| {
        (Arc::new(keyframer.read_adapter(file).unwrap()), *weight)
    };
    let adapters = files.iter().map(read).collect();
    keyframer
        .set_adapters(&AdapterSet::new(adapters).unwrap())
        .unwrap();
}

/// Sets of adapter files by name, and by which of the reference's two ways it takes them.
type Sets = Vec<(&'static str, &'static str, Vec<(PathBuf, f64)>)>;

fn check(model: &KeyframeModel, mut sets: Sets) {
    sets.insert(0, ("none", "loaded", Vec::new()));
    let prompt = prompt("blurry");
    let jobs: Vec<Value> = sets
        .iter()
        .map(|(name, way, files)| {
            let mut job = job(name, &model.path(), ("fp32", "fp32"), &spec(), &prompt);
            job[*way] = json!(files);
            job
        })
        .collect();
    let expected = oracle::ask("keyframe_pipeline.py", &json!({ "jobs": jobs }), &[]);
    let mut keyframer = model.keyframer(Dtype::Fp32);
    for (name, _, files) in &sets {
        apply(&mut keyframer, files);
        compare(name, &render(&keyframer, &spec(), &prompt), &expected);
        let frame = |name: &str| &expected[&format!("{name}.frame")];
        let effect = difference(&format!("{name}, effect"), frame(name), frame("none"));
        let is_effective = effect.mean_abs > 1e-3;
        assert_eq!(is_effective, *name != "none", "{name}: proves nothing");
    }
}

#[test]
fn adapters_of_the_unet() {
    let model = KeyframeModel::write(&keyframe::first_generation(), 60);
    let mut sets = Sets::new();
    let mut one = |name: &'static str, weight: f64, spec: &AdapterSpec| {
        let path = write_adapter(&model, name, spec);
        sets.push((name, "injected", vec![(path.clone(), weight)]));
        path
    };
    let a = one("every module", 1.0, &adapters::spec(&EVERY_MODULE, 1));
    one(
        "keys of cross-attention",
        1.0,
        &adapters::spec(&["attn2.to_q", "attn2.to_k"], 2),
    );
    one(
        "values of cross-attention",
        1.0,
        &adapters::spec(&["attn2.to_v", "attn2.to_out.0"], 3),
    );
    one(
        "projections",
        -0.7,
        &adapters::spec(&["proj_in", "proj_out"], 4),
    );
    let ranks = AdapterSpec {
        ranks: vec![1, 2, 3, 7],
        alphas: vec![1.0, 2.0, 0.5],
        ..adapters::spec(&EVERY_MODULE, 5)
    };
    one("ranks and alphas for each module", 0.8, &ranks);
    let stabilised = AdapterSpec {
        ranks: vec![9, 4],
        alphas: vec![1.5],
        use_rslora: true,
        ..adapters::spec(&["to_q", "to_v", "net.2", "conv1"], 6)
    };
    let b = one("rank-stabilised", 0.7, &stabilised);
    sets.push((
        "two that share modules",
        "injected",
        vec![(a, 0.7), (b, 1.3)],
    ));
    check(&model, sets);
}

#[test]
fn adapters_of_the_unet_with_linear_projections() {
    let model = KeyframeModel::write(&keyframe::second_generation(), 61);
    let path = write_adapter(&model, "a", &adapters::spec(&EVERY_MODULE, 7));
    check(
        &model,
        vec![("every module", "injected", vec![(path, 0.6)])],
    );
}

/// As users do: files as trainers write them, through the pipeline's own loader.
#[test]
fn adapters_of_both_components() {
    let model = KeyframeModel::write(&keyframe::first_generation(), 62);
    // Feature maps enter the UNet by modules that the loader does not know by kohya's names.
    let attention = [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "net.0.proj",
        "net.2",
        "proj_in",
        "proj_out",
    ];
    let trained: Vec<&str> = attention
        .iter()
        .chain(&EVERY_TEXT_MODULE)
        .copied()
        .collect();
    let spec = |format, seed| AdapterSpec {
        format,
        ..adapters::spec(&trained, seed)
    };
    let kohya = write_adapter(&model, "kohya", &spec(AdapterFormat::Kohya, 8));
    let text_only = AdapterSpec {
        format: AdapterFormat::Kohya,
        ..adapters::spec(&EVERY_TEXT_MODULE, 9)
    };
    let text_only = write_adapter(&model, "text", &text_only);
    // Without settings in the file every scale is 1, here and there.
    let peft = AdapterSpec {
        alphas: Vec::new(),
        ..spec(AdapterFormat::Peft, 10)
    };
    let peft = write_adapter(&model, "peft", &peft);
    check(
        &model,
        vec![
            ("kohya", "loaded", vec![(kohya.clone(), 0.9)]),
            ("text encoder alone", "loaded", vec![(text_only, 1.0)]),
            ("peft", "loaded", vec![(peft.clone(), -0.5)]),
            ("two", "loaded", vec![(peft, 0.4), (kohya, 0.6)]),
        ],
    );
}

/// What `save_lora_weights` of diffusers writes, with settings of its own for each component.
#[test]
fn adapters_that_diffusers_saved() {
    let model = KeyframeModel::write(&keyframe::first_generation(), 63);
    let file = model.scratch().join("saved.safetensors");
    let case = json!({ "model": model.path(), "file": file });
    oracle::ask("keyframe_adapter.py", &case, &[]);
    check(&model, vec![("saved", "loaded", vec![(file, 0.8)])]);
}

#[test]
fn every_format_fuses_to_the_same_bits() {
    let model = KeyframeModel::write(&keyframe::first_generation(), 64);
    let fused = |format: AdapterFormat| {
        let spec = AdapterSpec {
            format,
            ranks: vec![2, 5],
            alphas: vec![3.0, 1.0],
            ..adapters::spec(&everywhere(), 11)
        };
        let path = write_adapter(&model, &format!("{format:?}"), &spec);
        let mut keyframer = model.keyframer(Dtype::Fp32);
        apply(&mut keyframer, &[(path, 0.9)]);
        bits(keyframer.params())
    };
    let peft = fused(AdapterFormat::Peft);
    assert!(peft != bits(model.keyframer(Dtype::Fp32).params()));
    for format in [
        AdapterFormat::PeftFolder,
        AdapterFormat::DiffusersOld,
        AdapterFormat::Kohya,
    ] {
        assert!(fused(format) == peft, "{format:?}");
    }
}

#[test]
fn switching_and_restoring_leave_no_trace() {
    let model = KeyframeModel::write(&keyframe::first_generation(), 65);
    let a = write_adapter(&model, "a", &adapters::spec(&everywhere(), 12));
    let b = write_adapter(
        &model,
        "b",
        &adapters::spec(&["to_v", "to_k", "conv2", "fc1"], 13),
    );
    for dtype in [Dtype::Fp32, Dtype::Bf16] {
        let now = |keyframer: &Keyframer| {
            let frame = render(keyframer, &spec(), &prompt(""))
                .remove("frame")
                .unwrap();
            (bits(keyframer.params()), frame)
        };
        let fresh = now(&model.keyframer(dtype));
        let mut keyframer = model.keyframer(dtype);
        apply(&mut keyframer, &[(a.clone(), 0.7)]);
        let with_a = now(&keyframer);
        assert!(!with_a.1.equal(&fresh.1), "{dtype}: no effect");
        let states = [
            keyframer.state_id().unwrap(),
            model.keyframer(dtype).state_id().unwrap(),
        ];
        assert_ne!(states[0], states[1]);
        apply(&mut keyframer, &[(b.clone(), 1.3)]);
        apply(&mut keyframer, &[(a.clone(), 0.7), (b.clone(), 1.3)]);
        apply(&mut keyframer, &[(a.clone(), 0.7)]);
        let again = now(&keyframer);
        assert!(
            again.0 == with_a.0 && again.1.equal(&with_a.1),
            "{dtype}: after A, B, both, A"
        );
        keyframer.set_adapters(&AdapterSet::default()).unwrap();
        let restored = now(&keyframer);
        assert!(
            restored.0 == fresh.0 && restored.1.equal(&fresh.1),
            "{dtype}: restored"
        );
        assert_eq!(keyframer.state_id().unwrap(), states[1]);
    }
}

/// Each model refuses the other's adapters and says where they belong.
#[test]
fn adapters_of_the_other_stage_are_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let spec = adapters::spec(&["to_q", "to_k", "to_v"], 14);
    let write = |name: &str, table: &ModuleTable| {
        let path = dir.path().join(name);
        synthetic::write_adapter(&path, table, &spec).unwrap();
        path
    };
    let video = ModuleTable::of(&Preset::Tiny.config().unet);
    // A width that tells: the published text encoder's.
    let mut config = KeyframePreset::Tiny.config();
    config.unet.cross_attention_dim = 768;
    let style = write(
        "style",
        &ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder),
    );
    let motion = write("motion", &video);

    let model = KeyframeModel::write(&keyframe::first_generation(), 66);
    let refusal = |result: Result<_, EngineError>| match result {
        Err(EngineError::Adapter(error)) => error.to_string(),
        Err(other) => panic!("refused otherwise: {other}"),
        Ok(_) => panic!("was not refused"),
    };
    let said = refusal(model.keyframer(Dtype::Fp32).read_adapter(&motion));
    assert!(
        said.contains("it fits the video model, not the keyframe model"),
        "{said}"
    );
    let video_model = support::models::Model::write(&Preset::Tiny.config(), 67);
    let said = refusal(video_model.engine(Dtype::Fp32).read_adapter(&style));
    assert!(
        said.contains("it fits the keyframe model, not the video model"),
        "{said}"
    );
}

/// The same set whatever it is called with: fused adapters of the library are those of the program.
#[test]
fn pictures_of_the_program() {
    let model = KeyframeModel::write(&keyframe::first_generation(), 68);
    let a = write_adapter(&model, "a=1", &adapters::spec(&everywhere(), 15));
    let json = json!({
        "height": 24, "width": 40, "steps": 2, "sampler": "euler", "guidance_scale": 4, "seed": 21, "threads": 1,
    });
    let keyframe = support::program::Keyframe {
        model: &model.path(),
        dir: model.scratch(),
    };
    let adapter = format!("{}=0.7", Path::new(&a).display());
    let words = ["--prompt", keyframe::PROMPT, "--negative-prompt", "blurry"];
    let files = [
        "--out",
        "frame.png",
        "--dump-stages",
        "stages",
        "--adapter",
        &adapter,
    ];
    let measured = keyframe.run(&json, &[&words[..], &files].concat());
    assert_eq!(measured["steps_s"].as_array().unwrap().len(), 2);
    assert_eq!(measured["adapters"].as_array().unwrap().len(), 1);
    assert!(measured["text_s"].as_f64().unwrap() > 0.0 && measured.get("clip_s").is_none());

    let mut keyframer = model.keyframer(Dtype::Fp32);
    let adapter = Arc::new(keyframer.read_adapter(&a).unwrap());
    keyframer.set_adapters(&set(&[(&adapter, 0.7)])).unwrap();
    let expected = render(&keyframer, &spec(), &prompt("blurry"));
    let found = tch::Tensor::read_safetensors(model.scratch().join("stages")).unwrap();
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in found {
        assert!(tensor.equal(&expected[&name]), "{name}");
    }
    let png = image::open(model.scratch().join("frame.png"))
        .unwrap()
        .into_rgb8();
    assert_eq!(png.dimensions(), (40, 24));
    let rounded = (&expected["frame"].squeeze_dim(0) * 255.0)
        .round()
        .permute([1, 2, 0]);
    let rounded = Vec::<f32>::try_from(rounded.contiguous().flatten(0, -1)).unwrap();
    assert!(
        png.into_raw()
            .iter()
            .map(|&byte| f32::from(byte))
            .eq(rounded)
    );
}

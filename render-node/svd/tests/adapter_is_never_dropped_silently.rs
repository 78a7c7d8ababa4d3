//! Goal: whoever asks for an adapter gets a clip with all of it, or an error that says why not (invariant 10).
//! Method: a small change of each module of a model alone must show in the prediction, but for those that are known to
//! change nothing and are reported as such. Files with something wrong in them go to the program, which must refuse them by
//! name and leave no frames; and a checkpoint must not go on without the adapters that it was made with.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use flowai_model::Preset;
use flowai_model::adapter::{Adapter, ModuleTable};
use flowai_svd::lora::Fuser;
use flowai_svd::params::{Params, Precision};
use flowai_svd::unet::Unet;
use safetensors::{Dtype, SafeTensors, View, serialize};
use serde_json::{Value, json};
use support::adapters::{self, EVERY_MODULE, bits, set};
use support::inputs::{self, values};
use support::models::Model;
use support::program::Animate;
use tch::{Device, Kind, Tensor};

#[test]
fn every_module_shows_in_the_prediction_or_is_reported_as_a_noop() {
    let model = Model::write(&Preset::Dummy.config(), 60);
    let precision = Precision {
        device: Device::Cpu,
        kind: Kind::Float,
        rounded_to: None,
    };
    let mut params = Params::load(&model.folder.unet, precision, Unet::needs).unwrap();
    let unet = Unet::load(&params, &model.config().unet).unwrap();
    let sample = values("sample", &[1, 2, 8, 4, 6], 0);
    let embeds = values("embeds", &[1, 32], 0);
    let ids = Tensor::from_slice(&[6.0f32, 127.0, 0.02]).view([1, 3]);
    let predict = || {
        let context = unet.context(&embeds, 2).unwrap();
        let times = unet.times(&[0.7], &ids).unwrap();
        unet.forward(&sample, &times, 0, &context).unwrap()
    };
    let plain = predict();

    let table = ModuleTable::of(&model.config().unet);
    let spec = adapters::spec(&EVERY_MODULE, 1);
    let path = adapters::write(model.scratch(), "every", model.config(), &spec);
    let adapter = adapters::open(&path, model.config());
    assert_eq!(
        adapter.modules.len() + adapter.noop_modules.len(),
        table.modules().len(),
        "the adapter leaves modules of the model out"
    );
    for module in &adapter.noop_modules {
        let cross_attention = [".attn2.to_q", ".attn2.to_k"];
        assert!(
            cross_attention.iter().any(|end| module.ends_with(end)),
            "{module}"
        );
    }
    let mut fuser = Fuser::default();
    for delta in &adapter.modules {
        let alone = Adapter {
            modules: vec![delta.clone()],
            ..Adapter::clone(&adapter)
        };
        fuser
            .apply(&mut params, &set(&[(&Arc::new(alone), 1.0)]))
            .unwrap();
        assert!(!predict().equal(&plain), "{} has no effect", delta.module);
        fuser.apply(&mut params, &set(&[])).unwrap();
    }
    assert!(predict().equal(&plain), "restoring left a trace");
    let fresh = Params::load(&model.folder.unet, precision, Unet::needs).unwrap();
    assert!(bits(&params) == bits(&fresh), "restoring left a trace");
}

fn job() -> Value {
    json!({
        "height": 16, "width": 24, "frames": 2, "steps": 2, "decode_chunk_size": 2, "seed": 7, "dtype": "fp32",
        "device": "cpu", "threads": 1,
    })
}

fn with_program(test: impl FnOnce(&Model, &Animate)) {
    let model = Model::write(&Preset::Tiny.config(), 61);
    let image = inputs::write_picture(model.scratch(), 60, 40);
    let path = model.path();
    let animate = Animate {
        model: &path,
        image: &image,
        dir: model.scratch(),
    };
    test(&model, &animate);
}

/// A good adapter `NAME.safetensors` in the program's folder.
fn write_adapter(model: &Model, name: &str, seed: u64) -> String {
    let spec = adapters::spec(&["to_v", "conv1"], seed);
    adapters::write(model.scratch(), name, model.config(), &spec);
    format!("{name}.safetensors")
}

/// Tensors of an F32 file that can be added, renamed and written again.
#[derive(Clone)]
struct Raw(Vec<usize>, Vec<u8>);

impl View for &Raw {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.1).into()
    }

    fn data_len(&self) -> usize {
        self.1.len()
    }
}

fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut HashMap<String, Raw>)) {
    let bytes = fs::read(from).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, tensor)| {
            let raw = Raw(tensor.shape().to_vec(), tensor.data().to_vec());
            (name.to_owned(), raw)
        })
        .collect();
    change(&mut tensors);
    fs::write(to, serialize(tensors.iter(), None).unwrap()).unwrap();
}

#[test]
fn a_job_with_a_file_that_does_not_fit_fails_by_name() {
    with_program(|model, animate| {
        let good = write_adapter(model, "good", 2);
        let at = |name: &str| model.scratch().join(name);
        let refused = |file: &str, expected: &[&str]| {
            let argument = format!("{file}=0.5");
            // Beside a good one, so that there is something to go on with.
            let arguments = ["--adapter", "good.safetensors=1", "--adapter", &argument];
            let said = animate.refusal(&job(), &[&arguments[..], &["--out", "frames"]].concat());
            for part in [&[file], expected].concat() {
                assert!(said.contains(part), "{file}: no {part:?} in: {said}");
            }
            assert!(!at("frames").exists(), "{file}: wrote frames");
        };

        let key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v.lora_A.weight";
        let stray = [
            "unet.mid_block.attentions.9.proj_in.lora_A.weight",
            "unknown.one",
            "another",
        ];
        rewrite(&at(&good), &at("stray"), |tensors| {
            let one = tensors[key].clone();
            tensors.extend(stray.map(|name| (name.to_owned(), one.clone())));
        });
        refused("stray", &stray);
        rewrite(&at(&good), &at("half"), |tensors| {
            tensors.remove(key);
        });
        refused("half", &[&key.replace("lora_A", "lora_B"), "no partner"]);
        rewrite(&at(&good), &at("shape"), |tensors| {
            tensors.get_mut(key).unwrap().0.swap(0, 1)
        });
        refused("shape", &[key, "must have"]);
        rewrite(&at(&good), &at("nan"), |tensors| {
            tensors.get_mut(key).unwrap().1[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        refused("nan", &[key, "NaN"]);

        let bytes = fs::read(at(&good)).unwrap();
        fs::write(at("cut"), &bytes[..bytes.len() - 1]).unwrap();
        refused("cut", &[]);
        fs::write(at("pickle"), b"\x80\x02}q\x00.").unwrap();
        refused("pickle", &[]);
        fs::write(at("empty"), b"").unwrap();
        refused("empty", &[]);
        refused("missing", &["No such file"]);
        refused("model", &["is a directory"]);
    });
}

#[test]
fn a_weight_that_means_nothing_is_refused() {
    with_program(|model, animate| {
        let good = write_adapter(model, "good", 3);
        for argument in [
            good.clone(),
            format!("{good}="),
            format!("{good}=NaN"),
            format!("{good}=inf"),
        ] {
            let output = animate.output(&job(), &["--adapter", &argument, "--out", "frames"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{argument}: {said}");
            assert!(said.contains("--adapter"), "{argument}: {said}");
        }
        let (one, two) = (format!("{good}=1"), format!("./{good}=0.5"));
        let said = animate.refusal(
            &job(),
            &["--adapter", &one, "--adapter", &two, "--out", "frames"],
        );
        assert!(said.contains("twice"), "{said}");
    });
}

#[test]
fn the_program_tells_what_it_applied() {
    with_program(|model, animate| {
        let spec = adapters::spec(&["attn2.to_k", "attn1.to_v"], 6);
        let path = adapters::write(model.scratch(), "half", model.config(), &spec);
        let adapter = adapters::open(&path, model.config());
        let (modules, noops) = (adapter.modules.len(), adapter.noop_modules.len());
        assert!(modules > 0 && noops == modules);

        let arguments = ["--adapter", "half.safetensors=-0.5", "--out", "frames"];
        let output = animate.output(&job(), &arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        let line: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        let expected = json!([{
            "sha256": adapter.sha256, "weight": -0.5, "modules": modules, "noop_modules": noops,
        }]);
        assert_eq!(line["adapters"], expected);
        assert_eq!(line["steps_s"].as_array().unwrap().len(), 2);
        let seconds = |field: &str| line[field].as_f64().unwrap();
        assert!(seconds("adapters_s") > 0.0 && seconds("decode_s") > 0.0);
        assert!(seconds("start_to_first_step_s") <= seconds("total_s"));
        assert!(line["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    });
}

#[test]
fn a_checkpoint_goes_on_with_its_adapters_or_not_at_all() {
    with_program(|model, animate| {
        let (a, b) = (write_adapter(model, "a", 4), write_adapter(model, "b", 5));
        let (a, b) = (format!("{a}=0.7"), format!("{b}=1.3"));
        let both = ["--adapter", a.as_str(), "--adapter", b.as_str()];
        let run =
            |arguments: &[&str], more: &[&str]| animate.run(&job(), &[arguments, more].concat());
        run(&both, &["--out", "whole"]);
        run(
            &both,
            &["--checkpoint-at", "1", "--checkpoint", "checkpoint"],
        );
        let resume = ["--resume", "checkpoint", "--out", "frames"];
        for set in [
            &[][..],
            &["--adapter", &a],
            &["--adapter", &a, "--adapter", &b.replace("1.3", "1.2")],
        ] {
            let said = animate.refusal(&job(), &[set, &resume].concat());
            assert!(said.contains("another set of adapters"), "{said}");
        }

        // In whatever order they are named.
        run(&["--adapter", &b, "--adapter", &a], &resume);
        assert!(
            animate.bytes("frames") == animate.bytes("whole"),
            "frames differ"
        );
        run(&["--adapter", &a], &["--out", "one"]);
        run(&[], &["--out", "none"]);
        let outputs = ["whole", "one", "none"].map(|name| animate.bytes(name));
        assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2] && outputs[0] != outputs[2]);
    });
}

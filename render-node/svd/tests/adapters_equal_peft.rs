//! Goal: a model with adapters fused computes what the reference computes with PEFT's injected layers, and an adapter
//! that was taken out leaves no trace.
//! Method: random adapters in files; the UNet alone, then whole clips of the program, beside diffusers and PEFT on the same
//! files. Switching, restoring and the formats are compared bit for bit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use flowai_model::adapter::{AdapterFormat, MagnitudeAxis};
use flowai_model::synthetic::AdapterSpec;
use flowai_svd::AdapterSet;
use flowai_svd::lora::Fuser;
use flowai_svd::params::{Params, Precision};
use flowai_svd::unet::Unet;
use serde_json::json;
use support::adapters::{self, EVERY_MODULE, bits, open, set};
use support::compare::{assert_close, difference};
use support::inputs::values;
use support::models::{self, Model};
use support::oracle;
use support::program::Animate;
use support::stages::{compare, job};
use tch::{Device, Kind, Tensor};

const FRAMES: i64 = 3;
const TIMESTEP: f64 = 0.7;

/// A UNet whose adapters change, with one input for it.
struct Subject {
    params: Params,
    fuser: Fuser,
    unet: Unet,
    sample: Tensor,
    image_embeds: Tensor,
    added_time_ids: Tensor,
}

impl Subject {
    fn new(model: &Model, kind: Kind) -> Self {
        let precision = Precision {
            device: Device::Cpu,
            kind,
            rounded_to: None,
        };
        let params = Params::load(&model.folder.unet, precision, Unet::needs).unwrap();
        let config = &model.config().unet;
        let channels = config.in_channels as i64;
        let width = config.levels[0].cross_attention_dim as i64;
        Self {
            unet: Unet::load(&params, config).unwrap(),
            fuser: Fuser::default(),
            sample: values("sample", &[1, FRAMES, channels, 10, 14], 0).to_kind(kind),
            image_embeds: values("embeds", &[1, width], 0).to_kind(kind),
            added_time_ids: Tensor::from_slice(&[6.0, 127.0, 0.02])
                .view([1, 3])
                .to_kind(kind),
            params,
        }
    }

    fn apply(&mut self, adapters: &AdapterSet) {
        self.fuser.apply(&mut self.params, adapters).unwrap();
    }

    fn predict(&self) -> Tensor {
        let unet = &self.unet;
        let context = unet.context(&self.image_embeds, FRAMES).unwrap();
        let times = unet
            .times(&[TIMESTEP as f32], &self.added_time_ids)
            .unwrap();
        unet.forward(&self.sample, &times, 0, &context).unwrap()
    }
}

/// Adapter files of one model, and sets of them that the reference is asked about.
struct Sets<'m> {
    model: &'m Model,
    sets: Vec<(&'static str, Vec<(PathBuf, f64)>)>,
}

impl<'m> Sets<'m> {
    fn of(model: &'m Model) -> Self {
        let sets = vec![("none", Vec::new())];
        Self { model, sets }
    }

    /// A set of one adapter.
    fn one(&mut self, name: &'static str, weight: f64, spec: &AdapterSpec) -> PathBuf {
        let path = adapters::write(self.model.scratch(), name, self.model.config(), spec);
        self.sets.push((name, vec![(path.clone(), weight)]));
        path
    }

    /// A set of one DoRA adapter.
    fn dora(&mut self, name: &'static str, weight: f64, spec: &AdapterSpec) -> PathBuf {
        let (dir, config) = (self.model.scratch(), self.model.config());
        let path = adapters::write_dora(dir, name, config, spec, MagnitudeAxis::Output);
        self.sets.push((name, vec![(path.clone(), weight)]));
        path
    }

    /// Compares every set with the reference. `is_effective` says which of them change the prediction.
    fn check(self, tolerance: f64, is_effective: impl Fn(&str) -> bool) {
        let mut subject = Subject::new(self.model, Kind::Float);
        let sets: serde_json::Map<_, _> = self
            .sets
            .iter()
            .map(|(name, files)| (name.to_string(), json!(files)))
            .collect();
        let case = json!({ "model": self.model.path(), "timestep": TIMESTEP, "sets": sets });
        let inputs = [
            ("sample", &subject.sample),
            ("image_embeds", &subject.image_embeds),
            ("added_time_ids", &subject.added_time_ids),
        ];
        let expected = oracle::ask("adapters.py", &case, &inputs);
        for (name, files) in &self.sets {
            let config = self.model.config();
            let opened: Vec<_> = files
                .iter()
                .map(|(file, w)| (open(file, config), *w))
                .collect();
            subject.apply(&set(&opened
                .iter()
                .map(|(a, w)| (a, *w))
                .collect::<Vec<_>>()));
            assert_close(name, &subject.predict(), &expected[*name], tolerance);
            let effect = difference(
                &format!("{name}, effect"),
                &expected[*name],
                &expected["none"],
            );
            if is_effective(name) {
                assert!(effect.relative_l2 > 1e-3, "{name}: proves nothing");
            } else {
                assert!(effect.max_abs <= tolerance, "{name}: has an effect");
            }
        }
    }
}

#[test]
fn one_adapter() {
    let model = Model::write(&models::dummy(), 50);
    let spec = adapters::spec;
    let mut sets = Sets::of(&model);
    sets.one("every module", 1.0, &spec(&EVERY_MODULE, 1));
    sets.one("every module, negative", -0.4, &spec(&EVERY_MODULE, 2));
    let convolutions = [
        "conv_in",
        "conv_out",
        "conv",
        "conv1",
        "conv2",
        "conv_shortcut",
    ];
    sets.one("convolutions", 1.0, &spec(&convolutions, 3));
    // What the engine computes once a job or once a step instead of at every place.
    sets.one("values of cross-attention", 1.0, &spec(&["attn2.to_v"], 4));
    sets.one(
        "output of cross-attention",
        1.0,
        &spec(&["attn2.to_out.0"], 5),
    );
    sets.one("time", 1.0, &spec(&["time_emb_proj"], 6));
    let positions = ["time_pos_embed.linear_1", "time_pos_embed.linear_2"];
    sets.one("frame positions", 1.0, &spec(&positions, 7));
    sets.one(
        "queries and keys of one key",
        1.0,
        &spec(&["attn2.to_q", "attn2.to_k"], 8),
    );
    sets.one(
        "ranks and alphas for each module",
        0.8,
        &AdapterSpec {
            ranks: vec![1, 2, 3, 7],
            alphas: vec![1.0, 2.0, 0.5],
            ..spec(&EVERY_MODULE, 9)
        },
    );
    sets.one(
        "rank-stabilised",
        0.7,
        &AdapterSpec {
            ranks: vec![9, 4],
            alphas: vec![1.5],
            use_rslora: true,
            ..spec(&["to_q", "to_v", "net.2", "conv1"], 10)
        },
    );
    sets.check(1e-5, |name| {
        !["none", "queries and keys of one key"].contains(&name)
    });
}

#[test]
fn adapters_that_share_modules() {
    let model = Model::write(&models::dummy(), 51);
    let spec = adapters::spec;
    let mut sets = Sets::of(&model);
    let a = sets.one(
        "a",
        1.0,
        &spec(&["to_q", "to_v", "conv1", "time_emb_proj"], 11),
    );
    let b = AdapterSpec {
        ranks: vec![2, 3],
        alphas: vec![1.0],
        ..spec(&["to_v", "to_out.0", "conv1", "proj_in"], 12)
    };
    let b = sets.one("b", 1.0, &b);
    let c = AdapterSpec {
        use_rslora: true,
        ..spec(&["to_v", "conv1", "net.2"], 13)
    };
    let c = sets.one("c", 1.0, &c);
    sets.sets.extend([
        ("two", vec![(a.clone(), 0.7), (b.clone(), 1.3)]),
        (
            "two in the other order",
            vec![(b.clone(), 1.3), (a.clone(), 0.7)],
        ),
        ("three", vec![(c, -0.3), (a, 0.7), (b, 1.3)]),
    ]);
    sets.check(1e-5, |name| name != "none");
}

#[test]
fn dora_of_linear_layers_and_convolutions() {
    let model = Model::write(&models::dummy(), 56);
    let spec = adapters::spec;
    let mut sets = Sets::of(&model);
    sets.dora("every module", 1.0, &spec(&EVERY_MODULE, 31));
    let a = sets.dora("a share of every module", 0.6, &spec(&EVERY_MODULE, 32));
    let convolutions = ["conv_in", "conv1", "conv2", "conv_shortcut"];
    sets.dora("convolutions", 1.0, &spec(&convolutions, 33));
    sets.dora("linear layers", -0.5, &spec(&["to_q", "to_v", "net.2"], 34));
    sets.dora(
        "rank-stabilised, ranks and alphas for each module",
        1.0,
        &AdapterSpec {
            ranks: vec![1, 3, 7],
            alphas: vec![1.0, 2.0],
            use_rslora: true,
            ..spec(&EVERY_MODULE, 35)
        },
    );
    let b = sets.one("plain", 1.0, &spec(&["to_v", "conv1", "proj_in"], 36));
    sets.sets.push((
        "beside a plain one",
        vec![(a.clone(), 1.0), (b.clone(), 0.7)],
    ));
    sets.sets
        .push(("a share beside a plain one", vec![(a, 0.3), (b, -0.7)]));
    sets.check(1e-5, |name| name != "none");
}

#[test]
fn uneven_levels_with_two_layers() {
    let model = Model::write(&models::uneven_levels(), 52);
    let mut sets = Sets::of(&model);
    sets.one("every module", 0.6, &adapters::spec(&EVERY_MODULE, 14));
    sets.check(1e-5, |name| name != "none");
}

#[test]
fn every_format_fuses_to_the_same_bits() {
    let model = Model::write(&models::dummy(), 53);
    let fused = |format: AdapterFormat| {
        let spec = AdapterSpec {
            format,
            ranks: vec![2, 5],
            alphas: vec![3.0, 1.0],
            ..adapters::spec(&EVERY_MODULE, 15)
        };
        let path = adapters::write(
            model.scratch(),
            &format!("{format:?}"),
            model.config(),
            &spec,
        );
        let mut subject = Subject::new(&model, Kind::Float);
        subject.apply(&set(&[(&open(&path, model.config()), 0.9)]));
        bits(&subject.params)
    };
    let peft = fused(AdapterFormat::Peft);
    assert!(peft != bits(&Subject::new(&model, Kind::Float).params));
    for format in [
        AdapterFormat::PeftFolder,
        AdapterFormat::DiffusersOld,
        AdapterFormat::Kohya,
    ] {
        assert!(fused(format) == peft, "{format:?}");
    }
}

#[test]
fn dora_of_peft_and_of_kohya_fuses_to_the_same_bits() {
    let model = Model::write(&models::dummy(), 57);
    let fused = |format: AdapterFormat, axis| {
        let spec = AdapterSpec {
            format,
            ..adapters::spec(&EVERY_MODULE, 37)
        };
        let (dir, config) = (model.scratch(), model.config());
        let path = adapters::write_dora(dir, "dora", config, &spec, axis);
        let mut subject = Subject::new(&model, Kind::Float);
        subject.apply(&set(&[(&open(&path, config), 0.9)]));
        bits(&subject.params)
    };
    let peft = fused(AdapterFormat::Peft, MagnitudeAxis::Output);
    assert!(fused(AdapterFormat::Kohya, MagnitudeAxis::Output) == peft);
    assert!(fused(AdapterFormat::Kohya, MagnitudeAxis::Input) != peft);
}

#[test]
fn switching_and_restoring_leave_no_trace() {
    let model = Model::write(&models::dummy(), 54);
    let adapter = |name: &str, targets: &[&str], seed: u64| {
        let spec = adapters::spec(targets, seed);
        let path = adapters::write(model.scratch(), name, model.config(), &spec);
        open(&path, model.config())
    };
    let a = adapter("a", &EVERY_MODULE, 16);
    let b = adapter("b", &["to_v", "to_k", "conv2", "linear_1"], 17);
    for kind in [Kind::Float, Kind::BFloat16] {
        let fresh = Subject::new(&model, kind);
        let mut subject = Subject::new(&model, kind);
        let now = |subject: &Subject| (bits(&subject.params), subject.predict());
        let check = |name: &str, found: (_, Tensor), expected: &(_, Tensor)| {
            assert!(found.0 == expected.0, "{kind:?}: weights {name}");
            assert!(found.1.equal(&expected.1), "{kind:?}: prediction {name}");
        };

        subject.apply(&set(&[(&a, 0.7)]));
        let with_a = now(&subject);
        assert!(!with_a.1.equal(&fresh.predict()), "{kind:?}: no effect");
        subject.apply(&set(&[(&b, 1.3)]));
        subject.apply(&set(&[(&a, 0.7), (&b, 1.3)]));
        subject.apply(&set(&[(&a, 0.7)]));
        check("differ after A, B, both, A", now(&subject), &with_a);
        subject.apply(&AdapterSet::default());
        check("differ from a fresh load", now(&subject), &now(&fresh));
    }
}

/// Through the program, from the picture to the frames.
#[test]
fn clips_of_the_program() {
    let model = Model::write(&models::four_levels(), 55);
    let image = support::inputs::write_picture(model.scratch(), 75, 100);
    let write = |name: &str, targets: &[&str], seed: u64| {
        let spec = adapters::spec(targets, seed);
        adapters::write(model.scratch(), name, model.config(), &spec)
    };
    let a = write("a", &["to_q", "to_v", "to_out.0", "conv1"], 18);
    // The program splits at the last equals sign.
    let b = write("b=2", &["to_v", "to_k", "net.2", "time_emb_proj"], 19);
    let spec = json!({
        "height": 24, "width": 40, "frames": 3, "steps": 2, "fps": 9, "motion_bucket_id": 80, "noise_aug_strength": 0.05,
        "min_guidance_scale": 1.0, "max_guidance_scale": 2.5, "decode_chunk_size": 2, "seed": 21,
    });
    let parsed = flowai_svd::Spec::from_json(spec.as_object().unwrap(), model.config()).unwrap();
    let mut job = job("clip", &model, "fp32", "fp32", &parsed);
    job["image"] = json!(image);
    job["adapters"] = json!([[&a, 0.7], [&b, 1.3]]);
    let expected = oracle::ask("pipeline.py", &json!({ "jobs": [job] }), &[]);

    let argument = |file: &Path, weight: &str| format!("{}={weight}", file.display());
    let (a, b) = (argument(&a, "0.7"), argument(&b, "1.3"));
    let animate = Animate {
        model: &model.path(),
        image: &image,
        dir: model.scratch(),
    };
    let with = [
        "--adapter",
        &a,
        "--adapter",
        &b,
        "--out",
        "frames",
        "--dump-stages",
        "stages",
    ];
    animate.run(&spec, &with);
    let read = |name: &str| Tensor::read_safetensors(model.scratch().join(name)).unwrap();
    let found = read("stages").into_iter().chain(read("frames")).collect();
    compare("clip", &found, &expected);

    animate.run(&spec, &["--out", "plain"]);
    let change = difference("effect", &read("plain")[0].1, &expected["clip.frames"]);
    assert!(change.mean_abs > 1e-2, "the adapters have no effect");
}

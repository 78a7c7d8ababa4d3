//! Goal: a run that was stopped at a step boundary and went on in another process gives the bytes of one that was not.
//! Method: the program `flowai-svd`, one process for each part of a run, every boundary; whole files are compared. Negative
//! controls: whatever would make another clip is refused by name, and a damaged checkpoint does not pass for a whole one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::process::Command;
use std::thread;

use flowai_model::Preset;
use flowai_svd::{Dtype, EngineError, Picture, Spec};
use serde_json::{Value, json};
use support::inputs;
use support::models::Model;
use support::program::Animate;

const STEPS: usize = 4;

fn spec() -> Value {
    json!({
        "height": 16, "width": 24, "frames": 3, "steps": STEPS, "decode_chunk_size": 2, "seed": 7, "dtype": "fp32",
        "device": "cpu", "threads": 1,
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut spec = spec();
    spec[field] = value;
    spec
}

fn with_program(test: impl FnOnce(&Animate)) {
    let model = Model::write(&Preset::Tiny.config(), 30);
    let image = inputs::write_picture(model.scratch(), 60, 40);
    test(&Animate {
        model: &model.path(),
        image: &image,
        dir: model.scratch(),
    });
}

/// Stops after `k` steps, goes on in a new process, and leaves `frames` and the last latents' stages.
fn stop_and_go_on(animate: &Animate, spec: &Value, k: usize) {
    let k = k.to_string();
    animate.run(spec, &["--checkpoint-at", &k, "--checkpoint", "checkpoint"]);
    animate.run(
        spec,
        &[
            "--resume",
            "checkpoint",
            "--out",
            "frames",
            "--dump-stages",
            "stages",
        ],
    );
}

#[test]
fn stopped_at_every_step() {
    with_program(|animate| {
        animate.run(&spec(), &["--out", "whole"]);
        let whole = animate.bytes("whole");
        animate.run(&spec(), &["--out", "again"]);
        assert!(
            animate.bytes("again") == whole,
            "not even equal without a stop"
        );
        for k in 0..=STEPS {
            stop_and_go_on(animate, &spec(), k);
            assert!(
                animate.bytes("frames") == whole,
                "frames differ when stopped at {k}"
            );
        }
    });
}

#[test]
fn stopped_twice() {
    with_program(|animate| {
        animate.run(&spec(), &["--out", "whole"]);
        animate.run(
            &spec(),
            &["--checkpoint-at", "3", "--checkpoint", "straight"],
        );
        animate.run(&spec(), &["--checkpoint-at", "1", "--checkpoint", "first"]);
        let second = [
            "--resume",
            "first",
            "--checkpoint-at",
            "3",
            "--checkpoint",
            "second",
        ];
        animate.run(&spec(), &second);
        assert!(
            animate.bytes("second") == animate.bytes("straight"),
            "checkpoints differ"
        );
        animate.run(&spec(), &["--resume", "second", "--out", "frames"]);
        assert!(
            animate.bytes("frames") == animate.bytes("whole"),
            "frames differ"
        );
    });
}

#[test]
fn a_checkpoint_on_the_way_to_the_frames() {
    with_program(|animate| {
        animate.run(&spec(), &["--out", "whole"]);
        let at = ["--checkpoint-at", "2", "--checkpoint", "checkpoint"];
        animate.run(&spec(), &[&at[..], &["--out", "not_stopped"]].concat());
        assert!(animate.bytes("not_stopped") == animate.bytes("whole"));
        animate.run(&spec(), &["--resume", "checkpoint", "--out", "frames"]);
        assert!(animate.bytes("frames") == animate.bytes("whole"));

        let resume = ["--resume", "checkpoint"];
        for k in ["1", "5"] {
            let at = ["--checkpoint-at", k, "--checkpoint", "late"];
            let said = animate.refusal(&spec(), &[&resume[..], &at].concat());
            assert!(said.contains("--checkpoint-at must be 2..=4"), "{said}");
        }
    });
}

/// Whoever pulls the plug while a checkpoint is written still has the one before: files are replaced, never written into.
#[test]
fn files_are_replaced_in_one_step() {
    with_program(|animate| {
        let path = |name: &str| animate.dir.join(name);
        for name in ["checkpoint", "stages", "frames"] {
            fs::write(path(name), "before").unwrap();
            fs::hard_link(path(name), path(&format!("{name} before"))).unwrap();
        }
        let at = ["--checkpoint-at", "1", "--checkpoint", "checkpoint"];
        let rest = ["--dump-stages", "stages", "--out", "frames"];
        animate.run(&spec(), &[&at[..], &rest].concat());
        for name in ["checkpoint", "stages", "frames"] {
            assert!(animate.bytes(name).len() > 1000, "{name}");
            let before = animate.bytes(&format!("{name} before"));
            assert!(before == b"before", "{name} was written into");
        }
        let over_itself = ["--resume", "checkpoint", "--checkpoint-at", "2"];
        animate.run(&spec(), &[&over_itself[..], &at[2..]].concat());
        animate.run(&spec(), &["--resume", "checkpoint", "--out", "again"]);
        assert!(animate.bytes("again") == animate.bytes("frames"));

        let names = fs::read_dir(animate.dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let parts: Vec<String> = names.filter(|name| name.ends_with(".part")).collect();
        assert!(parts.is_empty(), "left behind: {parts:?}");
    });
}

/// A pipe cannot be replaced by a file, and whoever names one wants to read it.
#[test]
fn what_is_no_file_is_written_into() {
    with_program(|animate| {
        let pipe = animate.dir.join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()));
        let reader = thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        animate.run(&spec(), &["--out", "pipe"]);
        let kind = fs::metadata(&pipe).unwrap().file_type();
        assert!(kind.is_fifo(), "the pipe was replaced");
        animate.run(&spec(), &["--out", "whole"]);
        assert!(reader.join().unwrap() == animate.bytes("whole"));
    });
}

#[test]
fn stopped_in_bf16() {
    with_program(|animate| {
        let spec = with("dtype", json!("bf16"));
        animate.run(&spec, &["--out", "whole"]);
        stop_and_go_on(animate, &spec, 2);
        assert!(
            animate.bytes("frames") == animate.bytes("whole"),
            "frames differ"
        );
    });
}

#[test]
fn what_would_make_another_clip_is_refused() {
    with_program(|animate| {
        animate.run(
            &spec(),
            &["--checkpoint-at", "2", "--checkpoint", "checkpoint"],
        );
        let check = |spec: Value, expected: &str| {
            let said = animate.refusal(&spec, &["--resume", "checkpoint", "--out", "frames"]);
            assert!(said.contains(expected), "{said}");
        };
        check(
            with("seed", json!(8)),
            "another spec: seed 7 there, seed 8 here",
        );
        check(
            with("decode_chunk_size", json!(3)),
            "decode_chunk_size 2 there",
        );
        check(with("steps", json!(5)), "steps 4 there");
        check(with("fps", json!(8)), "fps 7 there");
        check(
            with("dtype", json!("bf16")),
            "another dtype: fp32 there, bf16 here",
        );
        check(with("threads", json!(2)), "another device class");

        let other = Model::write(&Preset::Tiny.config(), 31);
        let elsewhere = Animate {
            model: &other.path(),
            ..*animate
        };
        let said = elsewhere.refusal(&spec(), &["--resume", "checkpoint", "--out", "frames"]);
        assert!(said.contains("another model"), "{said}");
    });
}

#[test]
fn a_damaged_checkpoint_is_no_whole_one() {
    with_program(|animate| {
        animate.run(&spec(), &["--out", "whole"]);
        animate.run(
            &spec(),
            &["--checkpoint-at", "2", "--checkpoint", "checkpoint"],
        );
        let bytes = animate.bytes("checkpoint");
        let resume = ["--resume", "damaged", "--out", "frames"];

        fs::write(animate.dir.join("damaged"), &bytes[..bytes.len() - 1]).unwrap();
        let said = animate.refusal(&spec(), &resume);
        assert!(said.contains("checkpoint"), "{said}");

        // The comparison of whole files sees a single bit.
        let latents = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let latents = latents.tensor("latents").unwrap().data().as_ptr_range();
        let first = latents.start as usize - bytes.as_ptr() as usize;
        let mut flipped = bytes.clone();
        flipped[first + 2] ^= 0x40;
        fs::write(animate.dir.join("damaged"), flipped).unwrap();
        animate.run(&spec(), &resume);
        assert!(
            animate.bytes("frames") != animate.bytes("whole"),
            "a flipped bit left no trace"
        );
    });
}

/// An engine does one job after the other: what the one leaves behind must not show in the next.
#[test]
fn another_job_in_between_leaves_no_trace() {
    let model = Model::write(&Preset::Tiny.config(), 32);
    let engine = model.engine(Dtype::Fp32);
    let picture = Picture::open(&inputs::write_picture(model.scratch(), 60, 40)).unwrap();
    let job = |seed: u64, frames: u32| {
        let fields =
            json!({ "height": 16, "width": 24, "frames": frames, "steps": 3, "seed": seed });
        Spec::from_json(fields.as_object().unwrap(), engine.config()).unwrap()
    };
    let bytes = |run: &flowai_svd::Run<'_>| {
        let mut bytes = Vec::new();
        run.decode(|frames| -> Result<(), EngineError> {
            bytes.extend(frames.to_rgb8()?);
            Ok(())
        })
        .unwrap();
        bytes
    };
    let start = |seed, frames| {
        let conditioning = engine.prepare(&job(seed, frames), &picture).unwrap();
        engine.start(&conditioning).unwrap()
    };

    let mut alone = start(1, 3);
    while !alone.is_finished() {
        alone.step().unwrap();
    }
    let mut run = start(1, 3);
    run.step().unwrap();
    let checkpoint = run.checkpoint().unwrap();
    let mut other = start(2, 2);
    while !other.is_finished() {
        other.step().unwrap();
    }
    let other_bytes = bytes(&other);
    let mut resumed = engine.resume(&checkpoint).unwrap();
    while !resumed.is_finished() {
        resumed.step().unwrap();
    }
    assert!(bytes(&resumed) == bytes(&alone), "frames differ");
    assert_ne!(bytes(&resumed)[..other_bytes.len()], other_bytes);
}

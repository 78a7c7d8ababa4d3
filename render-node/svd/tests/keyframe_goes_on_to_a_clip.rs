//! Goal: what the keyframe stage makes is what the video model animates, by the program and by the library.
//! Method: a keyframe as a file and as bytes; both are one picture to the video engine, and the clip of the file begins.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use flowai_model::{KeyframePreset, Preset};
use flowai_svd::{Dtype, KeyframeSpec, Picture};
use serde_json::json;
use support::keyframe::{KeyframeModel, PROMPT, prompt};
use support::models::Model;
use support::program::{Animate, Keyframe};

#[test]
fn a_keyframe_is_animated_from_its_file_and_from_its_bytes() {
    let keyframe_model = KeyframeModel::write(&KeyframePreset::Tiny.config(), 90);
    let video_model = Model::write(&Preset::Tiny.config(), 91);
    let dir = keyframe_model.scratch();
    let spec = json!({ "height": 24, "width": 40, "steps": 2, "seed": 5, "threads": 1 });
    let keyframe = Keyframe {
        model: &keyframe_model.path(),
        dir,
    };
    keyframe.run(&spec, &["--prompt", PROMPT, "--out", "frame.png"]);

    let frame = dir.join("frame.png");
    let animate = Animate {
        model: &video_model.path(),
        image: &frame,
        dir,
    };
    // Another size and another seed: the clip's are its own.
    let clip =
        json!({ "height": 16, "width": 24, "frames": 2, "steps": 1, "seed": 6, "threads": 1 });
    animate.run(&clip, &["--out", "frames"]);
    assert!(dir.join("frames").exists());

    let keyframer = keyframe_model.keyframer(Dtype::Fp32);
    let fields = json!({ "height": 24, "width": 40, "steps": 2, "seed": 5 });
    let spec = KeyframeSpec::from_json(fields.as_object().unwrap(), keyframer.config()).unwrap();
    let conditioning = keyframer.prepare(&spec, &prompt("")).unwrap();
    let mut run = keyframer.start(&conditioning).unwrap();
    while !run.is_finished() {
        run.step().unwrap();
    }
    let bytes = run.decode().unwrap().to_rgb8().unwrap();
    let handed_over = Picture::from_rgb(spec.width, spec.height, bytes).unwrap();
    let read = Picture::open(&frame).unwrap();
    assert_eq!(handed_over.rgb(), read.rgb());
}

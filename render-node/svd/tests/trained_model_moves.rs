//! Goal: the whole chain, from a picture to frames, makes the motion that was asked for, with a model that was trained.
//! Method: the tiny model of `ops/tiny-model` animates a photograph that it never saw, and a similarity is fitted to the
//! pixels of its frames. The measure itself is tried on a picture whose motion is known, and on one that stands still.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::json;
use support::motion::{Grey, Motion, follow};
use support::program::Animate;

const LAST_FRAME: f64 = 7.0;
/// As in `ops/tiny-model/motion.py`.
const ZOOM_PER_FRAME: f64 = 0.03;
const PAN_PER_FRAME_PX: f64 = 1.75;
const ROTATION_PER_FRAME_DEG: f64 = 1.75;
const DEFAULT_BUCKET: u32 = 127;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The frames of the demo's photograph.
fn frames(bucket: u32, adapter: Option<&str>) -> Vec<Grey> {
    let model = repository().join("ops/tiny-model/model");
    let image = repository().join("cli/assets/chelsea.png");
    let dir = tempfile::tempdir().unwrap();
    let animate = Animate {
        model: &model,
        image: &image,
        dir: dir.path(),
    };
    let adapter = adapter.map(|name| {
        format!(
            "{}=1",
            model.join(name).with_extension("safetensors").display()
        )
    });
    let mut arguments = vec!["--out", "frames.safetensors"];
    if let Some(adapter) = &adapter {
        arguments.extend(["--adapter", adapter]);
    }
    let spec = json!({
        "steps": 6, "motion_bucket_id": bucket, "min_guidance_scale": 1.0, "max_guidance_scale": 1.0, "seed": 1, "threads": 1,
    });
    animate.run(&spec, &arguments);
    let bytes = animate.bytes("frames.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let frames = tensors.tensor("frames").unwrap();
    let [_, planes, height, width] = *frames.shape() else {
        panic!(
            "frames must have four dimensions (got {:?})",
            frames.shape()
        )
    };
    let numbers: Vec<f32> = frames
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    numbers
        .chunks_exact(planes * height * width)
        .map(|planes| Grey::from_planes(planes, height, width))
        .collect()
}

#[track_caller]
fn assert_near(what: &str, measured: f64, expected: f64, tolerance: f64) {
    println!("{what}: {measured:.3}, asked {expected:.3}");
    assert!(
        (measured - expected).abs() <= tolerance,
        "{what} must be {expected:.3} within {tolerance} (measured {measured:.3})"
    );
}

/// A picture with structure at every place, and nothing that repeats.
fn landscape() -> Grey {
    let side = 96;
    let pixels = (0..side * side)
        .map(|i| {
            let (x, y) = ((i % side) as f32, (i / side) as f32);
            0.5 + 0.2 * (x / 7.0 + (y / 19.0).sin() * 2.0).sin() + 0.2 * (y / 9.0 + x / 31.0).cos()
        })
        .collect();
    Grey {
        width: side,
        height: side,
        pixels,
    }
}

#[test]
fn the_measure_finds_a_known_motion_and_none_in_a_still_picture() {
    let first = landscape();
    let last = Motion {
        growth: 1.21,
        clockwise_deg: 9.0,
        left_px: 8.0,
        up_px: -3.0,
    };
    let at = |part: f64| {
        first.moved(Motion {
            growth: 1.0 + (last.growth - 1.0) * part,
            clockwise_deg: last.clockwise_deg * part,
            left_px: last.left_px * part,
            up_px: last.up_px * part,
        })
    };
    let clip: Vec<Grey> = (0..8)
        .map(|frame| at(f64::from(frame) / LAST_FRAME))
        .collect();
    let found = follow(&clip);
    assert_near("growth", found.growth, last.growth, 0.01);
    assert_near("clockwise", found.clockwise_deg, last.clockwise_deg, 0.5);
    assert_near("left", found.left_px, last.left_px, 0.3);
    assert_near("up", found.up_px, last.up_px, 0.3);
    assert_eq!(follow(&vec![first; 8]), Motion::NONE);
}

#[test]
fn it_zooms_faster_with_a_larger_bucket_and_about_as_fast_as_asked() {
    let mut slower = 1.0;
    for bucket in [40, DEFAULT_BUCKET, 220] {
        let found = follow(&frames(bucket, None));
        let asked =
            1.0 + ZOOM_PER_FRAME * LAST_FRAME * f64::from(bucket) / f64::from(DEFAULT_BUCKET);
        assert_near(
            &format!("growth at bucket {bucket}"),
            found.growth,
            asked,
            0.35 * (asked - 1.0),
        );
        assert!(
            found.growth > slower,
            "{found:?} must grow faster than {slower}"
        );
        slower = found.growth;
    }
}

#[test]
fn with_pan_left_it_pans_instead() {
    let found = follow(&frames(DEFAULT_BUCKET, Some("pan-left")));
    let asked = PAN_PER_FRAME_PX * LAST_FRAME;
    assert_near("left", found.left_px, asked, 0.2 * asked);
    assert_near("growth", found.growth, 1.0, 0.05);
}

#[test]
fn with_rotate_it_turns_instead() {
    let found = follow(&frames(DEFAULT_BUCKET, Some("rotate")));
    let asked = ROTATION_PER_FRAME_DEG * LAST_FRAME;
    assert_near("clockwise", found.clockwise_deg, asked, 0.3 * asked);
    assert_near("growth", found.growth, 1.0, 0.05);
}

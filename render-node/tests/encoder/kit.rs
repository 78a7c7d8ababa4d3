//! Synthetic motion to encode, and ffprobe and ffmpeg to judge the result from outside.

use std::path::Path;
use std::process::Command;

use flowai_render_node::encoder::{Encoded, Encoder, EncoderSpec, RgbFrame};

/// A saturated gradient that drifts by eight pixels a frame: smooth, every hue is in it, and neighbours differ by
/// far more than compression changes.
pub(crate) fn drifting_gradient(spec: &EncoderSpec, index: u32) -> RgbFrame {
    let wave = |position: u32, length: u32, phase: f32| {
        let turn = (position + 8 * index) as f32 / length as f32 * std::f32::consts::TAU + phase;
        (127.5 + 127.0 * turn.sin()) as u8
    };
    RgbFrame::from_fn(spec.width, spec.height, |x, y| {
        image::Rgb([
            wave(x, spec.width, 0.0),
            wave(y, spec.height, 2.1),
            wave(x + y, spec.width + spec.height, 4.2),
        ])
    })
}

pub(crate) fn encode(spec: EncoderSpec, out_dir: &Path) -> Encoded {
    let encoder = Encoder::start(spec, out_dir).expect("encoder starts");
    for index in 0..spec.frames {
        encoder
            .push(drifting_gradient(&spec, index))
            .expect("frame is taken");
    }
    encoder.finish().expect("clip is finished")
}

/// The only stream of a clip as ffprobe sees it, all frames decoded.
pub(crate) fn probe(clip: &Path) -> serde_json::Value {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-count_frames",
            "-show_streams",
            "-show_format",
            "-of",
            "json",
        ])
        .arg(clip)
        .output()
        .expect("ffprobe is installed");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("ffprobe prints JSON")
}

/// All frames of a clip, decoded by ffmpeg with the colours its tags declare.
pub(crate) fn decode(clip: &Path, spec: &EncoderSpec) -> Vec<RgbFrame> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(clip)
        .args([
            "-sws_flags",
            "bicubic+accurate_rnd+full_chroma_int",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ])
        .output()
        .expect("ffmpeg is installed");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let frame_bytes = (spec.width * spec.height * 3) as usize;
    assert_eq!(output.stdout.len() % frame_bytes, 0, "whole frames");
    output
        .stdout
        .chunks(frame_bytes)
        .map(|pixels| {
            RgbFrame::from_raw(spec.width, spec.height, pixels.to_vec()).expect("a whole frame")
        })
        .collect()
}

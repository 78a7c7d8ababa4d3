//! Goal: an aborted, failed or refused clip leaves no file, and the encoder does not wait for the last frame to start.
//! Method: drop, starve, overfeed and misfeed encoders; watch the folder.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::kit::{drifting_gradient, encode};
use flowai_render_node::encoder::{EncodeError, Encoder, EncoderSpec, FRAMES_QUEUED_MAX, RgbFrame};

const SPEC: EncoderSpec = EncoderSpec {
    width: 64,
    height: 48,
    fps: 8,
    frames: 12,
};

#[test]
fn abort_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = Encoder::start(SPEC, folder.path()).unwrap();
    for index in 0..SPEC.frames {
        encoder.push(drifting_gradient(&SPEC, index)).unwrap();
    }
    assert_ne!(
        files_in(folder.path()),
        Vec::<String>::new(),
        "the clip is being written"
    );
    drop(encoder);
    assert_eq!(files_in(folder.path()), Vec::<String>::new());
}

#[test]
fn wrong_number_of_frames_fails_the_clip() {
    for pushed in [0, SPEC.frames - 1, SPEC.frames + 1] {
        let folder = tempfile::tempdir().unwrap();
        let encoder = Encoder::start(SPEC, folder.path()).unwrap();
        for index in 0..pushed {
            encoder.push(drifting_gradient(&SPEC, index)).unwrap();
        }
        let error = encoder.finish().unwrap_err();
        assert!(
            matches!(error, EncodeError::FrameCount { want: 12, got } if got == pushed),
            "{error}"
        );
        assert_eq!(files_in(folder.path()), Vec::<String>::new());
    }
}

#[test]
fn frame_of_the_wrong_size_is_refused_and_the_clip_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = Encoder::start(SPEC, folder.path()).unwrap();
    for index in 0..SPEC.frames {
        let error = encoder
            .push(RgbFrame::new(SPEC.height, SPEC.width))
            .unwrap_err();
        assert_eq!(error.to_string(), "frame size must be 64x48 (got 48x64)");
        encoder.push(drifting_gradient(&SPEC, index)).unwrap();
    }
    let encoded = encoder.finish().unwrap();
    let undisturbed = tempfile::tempdir().unwrap();
    assert_eq!(
        encoded.clip.sha256,
        encode(SPEC, undisturbed.path()).clip.sha256
    );
}

#[test]
fn impossible_specs_are_refused_by_field() {
    let folder = tempfile::tempdir().unwrap();
    for (spec, message) in [
        (
            EncoderSpec { width: 60, ..SPEC },
            "width must be a multiple of 8 in 16..=4096 (got 60)",
        ),
        (
            EncoderSpec { height: 0, ..SPEC },
            "height must be a multiple of 8 in 16..=4096 (got 0)",
        ),
        (
            EncoderSpec {
                height: 4104,
                ..SPEC
            },
            "height must be a multiple of 8 in 16..=4096 (got 4104)",
        ),
        (
            EncoderSpec { fps: 0, ..SPEC },
            "fps must be 1..=120 (got 0)",
        ),
        (
            EncoderSpec { frames: 0, ..SPEC },
            "frames must be 1..=256 (got 0)",
        ),
        (
            EncoderSpec {
                frames: 257,
                ..SPEC
            },
            "frames must be 1..=256 (got 257)",
        ),
    ] {
        assert_eq!(
            Encoder::start(spec, folder.path()).unwrap_err().to_string(),
            message
        );
    }
    let missing = folder.path().join("missing");
    assert!(
        matches!(Encoder::start(SPEC, &missing), Err(EncodeError::OutDir(named)) if named == missing)
    );
    assert_eq!(files_in(folder.path()), Vec::<String>::new());
}

/// Noise compresses to far more than the muxer's buffer, so the file grows as soon as packets come out.
#[test]
fn frames_are_encoded_while_later_ones_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let spec = EncoderSpec {
        width: 256,
        height: 256,
        fps: 8,
        frames: 25,
    };
    let encoder = Encoder::start(spec, folder.path()).unwrap();
    let pushed = spec.frames - 1;
    assert!(
        pushed as usize > FRAMES_QUEUED_MAX,
        "more than the queue holds"
    );
    for index in 0..pushed {
        encoder.push(noise(&spec, index)).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let clip = folder.path().join("clip.mp4");
    while fs::metadata(&clip).unwrap().len() < 100_000 {
        assert!(
            Instant::now() < deadline,
            "no packet was written before the last frame"
        );
        std::thread::yield_now();
    }
    encoder.push(noise(&spec, pushed)).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn a_full_disk_is_told_from_a_clip_that_cannot_be_made() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("clip.mp4")).unwrap();
    let full = Encoder::start(SPEC, folder.path()).unwrap_err();
    assert!(full.is_of_disk(), "{full:?}");
    let impossible = Encoder::start(EncoderSpec { fps: 0, ..SPEC }, folder.path()).unwrap_err();
    assert!(!impossible.is_of_disk(), "{impossible:?}");
}

fn noise(spec: &EncoderSpec, index: u32) -> RgbFrame {
    let mut state = index.wrapping_mul(2_654_435_761) | 1;
    RgbFrame::from_fn(spec.width, spec.height, |_, _| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        image::Rgb([state as u8, (state >> 8) as u8, (state >> 16) as u8])
    })
}

fn files_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder is readable");
    entries
        .map(|entry| {
            entry
                .expect("entry is readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

//! Goal: a finished clip plays in a browser at the asked size, rate and length, and looks like the frames it was made of.
//! Method: encode synthetic motion; let ffprobe and ffmpeg read it back.

use std::fs;

use crate::kit::{decode, drifting_gradient, encode, probe};
use flowai_actors::ids::Sha256;
use flowai_render_node::encoder::{Encoder, EncoderSpec, RgbFrame};
use sha2::Digest as _;

#[test]
fn stream_is_h264_high_with_exact_timing() {
    for (spec, duration) in [
        (
            EncoderSpec {
                width: 256,
                height: 144,
                fps: 7,
                frames: 25,
            },
            "3.571429",
        ),
        (
            EncoderSpec {
                width: 144,
                height: 256,
                fps: 24,
                frames: 49,
            },
            "2.041667",
        ),
        (
            EncoderSpec {
                width: 40,
                height: 24,
                fps: 30,
                frames: 2,
            },
            "0.066667",
        ),
        (
            EncoderSpec {
                width: 16,
                height: 16,
                fps: 1,
                frames: 1,
            },
            "1.000000",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let encoded = encode(spec, folder.path());
        let found = probe(&encoded.clip.path);
        let stream = &found["streams"][0];
        let rate = format!("{}/1", spec.fps);
        for (field, want) in [
            ("codec_name", "h264"),
            ("profile", "High"),
            ("pix_fmt", "yuv420p"),
            ("sample_aspect_ratio", "1:1"),
            ("color_range", "tv"),
            ("color_space", "bt709"),
            ("color_transfer", "bt709"),
            ("color_primaries", "bt709"),
            ("chroma_location", "left"),
            ("r_frame_rate", rate.as_str()),
            ("avg_frame_rate", rate.as_str()),
            ("nb_frames", spec.frames.to_string().as_str()),
            ("nb_read_frames", spec.frames.to_string().as_str()),
            ("start_time", "0.000000"),
            ("duration", duration),
        ] {
            assert_eq!(stream[field], want, "{field} of {spec:?}");
        }
        assert_eq!(
            (stream["width"].as_u64(), stream["height"].as_u64()),
            (Some(spec.width.into()), Some(spec.height.into()))
        );
        assert_eq!(
            (encoded.frames, encoded.duration),
            (spec.frames, spec.duration())
        );
    }
}

#[test]
fn index_comes_before_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = encode(
        EncoderSpec {
            width: 64,
            height: 64,
            fps: 8,
            frames: 8,
        },
        folder.path(),
    );
    let file = fs::read(&encoded.clip.path).unwrap();

    let mut names = Vec::new();
    let mut rest = file.as_slice();
    while let Some((head, _)) = rest.split_at_checked(8) {
        names.push(String::from_utf8_lossy(&head[4..]).into_owned());
        rest = &rest[u32::from_be_bytes(head[..4].try_into().unwrap()) as usize..];
    }
    assert!(rest.is_empty(), "boxes fill the file");
    let place = |name: &str| {
        names
            .iter()
            .position(|found| found == name)
            .unwrap_or_else(|| panic!("{name} in {names:?}"))
    };
    assert!(
        place("ftyp") < place("moov") && place("moov") < place("mdat"),
        "{names:?}"
    );
}

#[test]
fn pictures_survive_the_compression() {
    let folder = tempfile::tempdir().unwrap();
    let spec = EncoderSpec {
        width: 320,
        height: 192,
        fps: 8,
        frames: 17,
    };
    let frames = decode(&encode(spec, folder.path()).clip.path, &spec);
    assert_eq!(frames.len(), spec.frames as usize);
    for (index, decoded) in (0..).zip(&frames) {
        let psnr = psnr(&drifting_gradient(&spec, index), decoded);
        assert!(psnr > 35.0, "frame {index}: {psnr:.1} dB");
    }
}

/// A wrong matrix or range moves saturated colours by 20 levels and more while it hardly shows in grey.
#[test]
fn colours_are_those_that_the_tags_declare() {
    let spec = EncoderSpec {
        width: 64,
        height: 64,
        fps: 4,
        frames: 2,
    };
    for colour in [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 255],
        [0, 0, 0],
        [200, 120, 40],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let encoder = Encoder::start(spec, folder.path()).unwrap();
        for _ in 0..spec.frames {
            encoder
                .push(RgbFrame::from_pixel(
                    spec.width,
                    spec.height,
                    image::Rgb(colour),
                ))
                .unwrap();
        }
        let decoded = decode(&encoder.finish().unwrap().clip.path, &spec);
        let got = decoded[0].get_pixel(32, 32).0;
        assert!(
            (0..3).all(|channel| got[channel].abs_diff(colour[channel]) <= 3),
            "{colour:?} became {got:?}"
        );
    }
}

#[test]
fn hashes_and_sizes_are_those_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = encode(
        EncoderSpec {
            width: 64,
            height: 64,
            fps: 8,
            frames: 4,
        },
        folder.path(),
    );
    for file in [
        encoded.clip,
        encoded.poster,
        encoded.preview,
        encoded.spritesheet,
    ] {
        let content = fs::read(&file.path).unwrap();
        assert_eq!(file.bytes, content.len() as u64);
        assert_eq!(
            file.sha256,
            Sha256::from_bytes(sha2::Sha256::digest(&content).into())
        );
    }
}

#[test]
fn same_frames_give_the_same_bytes() {
    let spec = EncoderSpec {
        width: 320,
        height: 192,
        fps: 7,
        frames: 40,
    };
    let hashes = || {
        let folder = tempfile::tempdir().unwrap();
        let files = encode(spec, folder.path());
        [files.clip, files.poster, files.preview, files.spritesheet].map(|file| file.sha256)
    };
    let expected = hashes();
    // Beside others, so that threads come to run in every order.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(hashes(), expected);
                }
            });
        }
    });
}

fn psnr(want: &RgbFrame, got: &RgbFrame) -> f64 {
    let squares: f64 = want
        .as_raw()
        .iter()
        .zip(got.as_raw())
        .map(|(want, got)| (f64::from(*want) - f64::from(*got)).powi(2))
        .sum();
    10.0 * (255.0 * 255.0 / (squares / want.as_raw().len() as f64)).log10()
}

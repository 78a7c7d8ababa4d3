//! Goal: poster, preview and sprite sheet open in any viewer and show the clip.
//! Method: decode them with the image crate, which shares no code with the encoders, and compare with the frames.

use std::fs::{self, File};
use std::io::BufReader;
use std::time::Duration;

use crate::kit::{drifting_gradient, encode};
use flowai_actors::messages::ArtefactFile;
use flowai_render_node::encoder::{self, EncoderSpec, RgbFrame};
use image::AnimationDecoder as _;
use image::codecs::webp::WebPDecoder;
use image::imageops;
use image::metadata::LoopCount;

const SPEC: EncoderSpec = EncoderSpec {
    width: 512,
    height: 288,
    fps: 8,
    frames: 7,
};

#[test]
fn poster_is_the_first_frame() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = encode(SPEC, folder.path());
    let poster = image::open(&encoded.poster.path).unwrap().to_rgb8();
    assert_near(&drifting_gradient(&SPEC, 0), &poster);
}

#[test]
fn preview_loops_through_all_frames_at_the_clips_rate() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = encode(SPEC, folder.path());
    let decoder =
        WebPDecoder::new(BufReader::new(File::open(&encoded.preview.path).unwrap())).unwrap();
    assert!(decoder.has_animation());
    assert!(matches!(decoder.loop_count(), LoopCount::Infinite));
    let mut shown_until_ms = 0;
    let mut index = 0;
    for frame in decoder.into_frames().collect_frames().unwrap() {
        shown_until_ms += Duration::from(frame.delay()).as_millis() as u32;
        let shown = image::DynamicImage::from(frame.into_buffer()).to_rgb8();
        // libwebp shows one picture for neighbours that hardly differ.
        while index * 125 < shown_until_ms {
            let want = imageops::thumbnail(&drifting_gradient(&SPEC, index), 256, 144);
            assert_near(&want, &shown);
            index += 1;
        }
    }
    assert_eq!((index, shown_until_ms), (SPEC.frames, SPEC.frames * 125));
}

#[test]
fn spritesheet_shows_every_frame_in_reading_order() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = encode(SPEC, folder.path());
    let sheet = image::open(&encoded.spritesheet.path).unwrap().to_rgb8();
    assert_eq!(
        sheet.dimensions(),
        (3 * 256, 3 * 144),
        "seven frames in a 3x3 grid"
    );
    for index in 0..SPEC.frames {
        let tile =
            imageops::crop_imm(&sheet, index % 3 * 256, index / 3 * 144, 256, 144).to_image();
        assert_near(
            &imageops::thumbnail(&drifting_gradient(&SPEC, index), 256, 144),
            &tile,
        );
    }
}

#[test]
fn files_are_of_the_types_under_which_they_are_served() {
    let folder = tempfile::tempdir().unwrap();
    encode(SPEC, folder.path());
    encoder::keyframe(&drifting_gradient(&SPEC, 0), folder.path()).unwrap();
    for file in [
        ArtefactFile::Clip,
        ArtefactFile::Poster,
        ArtefactFile::Preview,
        ArtefactFile::Spritesheet,
        ArtefactFile::Keyframe,
    ] {
        let content = fs::read(folder.path().join(file.file_name())).unwrap();
        let is_of_type = match file.content_type() {
            "video/mp4" => &content[4..8] == b"ftyp",
            "image/webp" => content.starts_with(b"RIFF") && &content[8..12] == b"WEBP",
            "image/png" => content.starts_with(b"\x89PNG\r\n\x1a\n"),
            "image/jpeg" => content.starts_with(&[0xff, 0xd8, 0xff]),
            other => panic!("{other} of {file:?}"),
        };
        assert!(is_of_type, "{file:?}");
    }
}

#[test]
fn a_keyframe_is_its_pixels_and_nothing_else() {
    let picture = drifting_gradient(&SPEC, 3);
    let [one, other] = [(); 2].map(|()| {
        let folder = tempfile::tempdir().unwrap();
        let file = encoder::keyframe(&picture, folder.path()).unwrap();
        let content = fs::read(&file.path).unwrap();
        assert_eq!(file.bytes, content.len() as u64);
        assert_eq!(image::open(&file.path).unwrap().to_rgb8(), picture);
        content
    });
    assert_eq!(one, other);
    assert_eq!(png_chunks(&one), ["IHDR", "IDAT", "IEND"]);
}

/// The types of a PNG's chunks, each once where one follows another of its type.
fn png_chunks(png: &[u8]) -> Vec<String> {
    let mut chunks = Vec::new();
    let mut rest = &png[8..];
    while let Some((length, _)) = rest.split_first_chunk() {
        chunks.push(String::from_utf8_lossy(&rest[4..8]).into_owned());
        // Length, type, content, checksum.
        rest = &rest[12 + u32::from_be_bytes(*length) as usize..];
    }
    chunks.dedup();
    chunks
}

#[test]
fn tall_clip_has_a_tall_preview() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = encode(
        EncoderSpec {
            width: 288,
            height: 512,
            fps: 8,
            frames: 2,
        },
        folder.path(),
    );
    assert_eq!(
        image::image_dimensions(&encoded.preview.path).unwrap(),
        (144, 256)
    );
}

/// Within what lossy compression does; a swapped channel or a neighbouring frame is 8 levels away and more.
fn assert_near(want: &RgbFrame, got: &RgbFrame) {
    assert_eq!(want.dimensions(), got.dimensions());
    let total: u64 = want
        .as_raw()
        .iter()
        .zip(got.as_raw())
        .map(|(want, got)| u64::from(want.abs_diff(*got)))
        .sum();
    let mean = total as f64 / want.as_raw().len() as f64;
    assert!(mean < 3.0, "mean difference is {mean:.2} levels");
}

//! The clip: H.264 High in an mp4 that starts to play before it is all there.

use std::path::Path;

use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::{Dictionary, Packet, Rational, color, encoder, format};
use image::RgbImage;

use super::colour::RgbToYuv;
use super::error::{Action as _, EncodeError};
use super::spec::EncoderSpec;

/// Visually lossless for generated footage. The clip is the product, so size comes second and time third: this is as near the
/// frames as `medium` at 18, a fifth larger, in less than half the time (docs/benchmarks.md).
const CRF: &str = "17";
const PRESET: &str = "veryfast";
/// x264's output depends on the number of threads, and the clip's hash is promised to depend on its manifest only.
const THREADS: usize = 4;
/// Macroblock-tree rate control gives the first frames of equal clips other bytes when threads come to run in another order
/// (core 164). Without it a long look ahead finds nothing more, and a short clip would only be encoded after its last frame.
const X264_PARAMS: &str = "mbtree=0:rc-lookahead=4";
const KEYFRAME_INTERVAL_S: u32 = 2;

/// Writes one mp4. Dropped before [`ClipWriter::finish`], it leaves an unplayable file, which its owner deletes.
pub(super) struct ClipWriter {
    colour: RgbToYuv,
    encoder: encoder::Video,
    muxer: format::context::Output,
    frame_time: Rational,
    stream_time: Rational,
    frames: u32,
}

impl ClipWriter {
    pub(super) fn create(spec: &EncoderSpec, path: &Path) -> Result<Self, EncodeError> {
        let frame_time = Rational(1, spec.fps as i32);
        let encoder = open_x264(spec)?;

        let mut muxer = format::output_as(path, "mp4").action("create the clip")?;
        let mut stream = muxer
            .add_stream_with(&encoder)
            .action("add the video stream")?;
        stream.set_time_base(frame_time);
        stream.set_rate(frame_time.invert());
        stream.set_avg_frame_rate(frame_time.invert());
        let mut options = Dictionary::new();
        options.set("movflags", "+faststart");
        options.set("fflags", "+bitexact");
        muxer
            .write_header_with(options)
            .action("write the clip's header")?;
        let stream_time = muxer
            .stream(0)
            .map_or(frame_time, |stream| stream.time_base());

        Ok(Self {
            colour: RgbToYuv::new(spec.width, spec.height)?,
            encoder,
            muxer,
            frame_time,
            stream_time,
            frames: 0,
        })
    }

    pub(super) fn write(&mut self, picture: &RgbImage) -> Result<(), EncodeError> {
        let mut frame = self.colour.convert(picture)?;
        frame.set_pts(Some(i64::from(self.frames)));
        self.frames += 1;
        self.encoder.send_frame(&frame).action("encode a frame")?;
        self.drain()
    }

    /// Flushes the encoder, writes the index and moves it to the front.
    pub(super) fn finish(mut self) -> Result<(), EncodeError> {
        self.encoder.send_eof().action("flush the video encoder")?;
        self.drain()?;
        self.muxer.write_trailer().action("write the clip's index")
    }

    fn drain(&mut self) -> Result<(), EncodeError> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(ffmpeg_next::Error::Eof) => return Ok(()),
                Err(ffmpeg_next::Error::Other {
                    errno: ffmpeg_next::error::EAGAIN,
                }) => return Ok(()),
                Err(source) => return Err(source).action("encode a frame"),
            }
            packet.set_stream(0);
            // libx264 leaves it at 0, and the last frame would last no time.
            packet.set_duration(1);
            packet.rescale_ts(self.frame_time, self.stream_time);
            packet
                .write_interleaved(&mut self.muxer)
                .action("write the clip")?;
        }
    }
}

pub(super) fn open_x264(spec: &EncoderSpec) -> Result<encoder::Video, EncodeError> {
    const NAME: &str = "libx264";
    let frame_time = Rational(1, spec.fps as i32);
    let codec = encoder::find_by_name(NAME).ok_or(EncodeError::CodecMissing(NAME))?;
    let mut context = codec::Context::new_with_codec(codec);
    context
        .set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT | codec::Flags::CLOSED_GOP);
    context.set_threading(threading::Config {
        kind: threading::Type::Frame,
        count: THREADS,
        ..Default::default()
    });
    context.set_time_base(frame_time);
    context.set_frame_rate(Some(frame_time.invert()));

    let mut video = context
        .encoder()
        .video()
        .action("prepare the video encoder")?;
    video.set_width(spec.width);
    video.set_height(spec.height);
    video.set_format(format::Pixel::YUV420P);
    video.set_aspect_ratio(Rational(1, 1));
    video.set_gop(spec.fps * KEYFRAME_INTERVAL_S);
    video.set_color_range(color::Range::MPEG);
    video.set_colorspace(color::Space::BT709);
    video.set_color_primaries(color::Primaries::BT709);
    video.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);

    let mut options = Dictionary::new();
    options.set("preset", PRESET);
    options.set("crf", CRF);
    options.set("profile", "high");
    options.set("x264-params", X264_PARAMS);
    options.set("chroma_sample_location", "left");
    video.open_with(options).action("open libx264")
}

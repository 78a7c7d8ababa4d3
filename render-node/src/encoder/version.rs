//! Which libraries made a clip: what a manifest must name for its bytes to be made again.

use std::sync::OnceLock;

use ffmpeg_next::frame;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Packet, codec, format};

use super::clip;
use super::error::{Action as _, EncodeError};
use super::spec::EncoderSpec;

/// The smallest clip there is.
const PROBE: EncoderSpec = EncoderSpec {
    width: 16,
    height: 16,
    fps: 1,
    frames: 1,
};

/// The installed libraries that decide a clip's bytes, libavcodec's version first, as in `59.37.100, libx264 core 164 r3095
/// baee400, libswscale 6.7.100, libavformat 59.27.100`.
///
/// libx264 tells its version only in the streams it makes, so the first call encodes a frame of 16x16 pixels; when that
/// fails, so will every clip, and the text says `libx264 unknown`. libwebp, which makes poster and preview, does not tell its.
pub fn version() -> String {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = || {
        let x264 = x264_version().unwrap_or_else(|error| {
            tracing::warn!(%error, "libx264 does not tell its version");
            None
        });
        format!(
            "{}, libx264 {}, libswscale {}, libavformat {}",
            dotted(codec::version()),
            x264.as_deref().unwrap_or("unknown"),
            dotted(scaling::version()),
            dotted(format::version()),
        )
    };
    TEXT.get_or_init(text).clone()
}

/// Major, minor and micro version, as ffmpeg packs them.
fn dotted(version: u32) -> String {
    let (major, minor, micro) = (version >> 16, (version >> 8) & 0xff, version & 0xff);
    format!("{major}.{minor}.{micro}")
}

/// From the user data that libx264 puts in front of every stream.
fn x264_version() -> Result<Option<String>, EncodeError> {
    super::init()?;
    let mut encoder = clip::open_x264(&PROBE)?;
    let mut frame = frame::Video::new(format::Pixel::YUV420P, PROBE.width, PROBE.height);
    for plane in 0..frame.planes() {
        frame.data_mut(plane).fill(0);
    }
    frame.set_pts(Some(0));
    encoder.send_frame(&frame).action("encode a frame")?;
    encoder.send_eof().action("flush the video encoder")?;
    let mut packet = Packet::empty();
    encoder
        .receive_packet(&mut packet)
        .action("encode a frame")?;
    Ok(packet.data().and_then(version_in))
}

/// `core 164 r3095 baee400` of a stream that holds `x264 - core 164 r3095 baee400 - H.264/MPEG-4 AVC codec - ..`.
fn version_in(stream: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"x264 - ";
    const AFTER: &str = " - ";
    const BYTES_MAX: usize = 64;
    let at = stream
        .windows(BEFORE.len())
        .position(|bytes| bytes == BEFORE)?;
    let text = &stream[at + BEFORE.len()..];
    let text = String::from_utf8_lossy(&text[..text.len().min(BYTES_MAX)]);
    let (version, _) = text.split_once(AFTER)?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another libx264 makes other bytes of the same frames.
    #[test]
    fn the_installed_libx264_names_itself() {
        let version = version();
        let parts: Vec<&str> = version.split(", ").collect();
        let [avcodec, x264, swscale, avformat] = parts[..] else {
            panic!("{version}");
        };
        let is_dotted =
            |text: &str| text.split('.').filter(|n| n.parse::<u32>().is_ok()).count() == 3;
        assert!(is_dotted(avcodec), "{version}");
        let build = x264.strip_prefix("libx264 core ").unwrap_or_default();
        let build = build.split(' ').next().unwrap_or_default();
        assert!(
            build.parse::<u32>().is_ok_and(|build| build > 100),
            "{version}"
        );
        assert!(
            swscale.strip_prefix("libswscale ").is_some_and(is_dotted),
            "{version}"
        );
        assert!(
            avformat.strip_prefix("libavformat ").is_some_and(is_dotted),
            "{version}"
        );
    }

    #[test]
    fn a_stream_without_a_name_has_no_version() {
        let check = |stream: &[u8], expected| assert_eq!(version_in(stream).as_deref(), expected);
        check(
            b"\0\0\x01\x06x264 - core 164 r3095 baee400 - H.264",
            Some("core 164 r3095 baee400"),
        );
        check(b"x264 - core 165 - ", Some("core 165"));
        check(b"x264 - core 165", None);
        check(b"x264", None);
        check(b"", None);
    }
}

//! Clips as a player sees them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// What ffprobe finds in a clip after decoding all of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) codec: String,
    pub(crate) pixel_format: String,
    pub(crate) width: u64,
    pub(crate) height: u64,
    /// Decoded, not as announced.
    pub(crate) frames: String,
    pub(crate) rate: String,
}

pub(crate) fn probe(clip: &Path) -> Probe {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v"])
        .args(["-show_streams", "-of", "json"])
        .arg(clip)
        .output()
        .expect("ffprobe is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stream = &found["streams"][0];
    let text = |name: &str| stream[name].as_str().unwrap_or_default().to_owned();
    Probe {
        codec: text("codec_name"),
        pixel_format: text("pix_fmt"),
        width: stream["width"].as_u64().unwrap(),
        height: stream["height"].as_u64().unwrap(),
        frames: text("nb_read_frames"),
        rate: text("avg_frame_rate"),
    }
}

pub(crate) fn sha256_of(file: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(file).unwrap()))
}

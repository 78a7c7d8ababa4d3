//! What a clip is asked to be, checked before a single frame is made.

use std::time::Duration;

use super::error::EncodeError;

/// Sides are multiples of this: the model's latents are 8 times smaller than the picture, and 4:2:0 needs even sides.
const SIDE_MULTIPLE: u32 = 8;
/// The smallest side libx264 takes with the 16x16 macroblocks of the High profile.
const SIDE_MIN: u32 = 16;
/// Far above what the model renders; keeps a frame under 48 MiB.
const SIDE_MAX: u32 = 4096;
/// Above this a browser drops frames.
const FPS_MAX: u32 = 120;
/// Thumbnails of all frames are held in memory until the sprite sheet is written: 64 MiB at the most.
const FRAMES_MAX: u32 = 256;

/// Size, rate and length of one clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderSpec {
    /// Pixels, a multiple of 8 in 16..=4096.
    pub width: u32,
    /// Pixels, a multiple of 8 in 16..=4096.
    pub height: u32,
    /// Frames a second, 1..=120.
    pub fps: u32,
    /// Frames that will be pushed, 1..=256. [`super::Encoder::finish`] refuses any other number.
    pub frames: u32,
}

impl EncoderSpec {
    /// Playing time of the clip: `frames / fps`.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.frames) / f64::from(self.fps))
    }

    /// # Errors
    /// [`EncodeError::Side`], [`EncodeError::Fps`] or [`EncodeError::Frames`], naming the field and its range.
    pub fn validate(&self) -> Result<(), EncodeError> {
        for (field, got) in [("width", self.width), ("height", self.height)] {
            if !(SIDE_MIN..=SIDE_MAX).contains(&got) || !got.is_multiple_of(SIDE_MULTIPLE) {
                return Err(EncodeError::Side {
                    field,
                    got,
                    multiple: SIDE_MULTIPLE,
                    min: SIDE_MIN,
                    max: SIDE_MAX,
                });
            }
        }
        if !(1..=FPS_MAX).contains(&self.fps) {
            return Err(EncodeError::Fps {
                got: self.fps,
                max: FPS_MAX,
            });
        }
        if !(1..=FRAMES_MAX).contains(&self.frames) {
            return Err(EncodeError::Frames {
                got: self.frames,
                max: FRAMES_MAX,
            });
        }
        Ok(())
    }
}

//! Frames in, a clip that browsers play out: H.264 High, yuv420p, BT.709, mp4 with its index in front; beside it a
//! poster (WebP, first frame), a looped preview (animated WebP) and a sprite sheet (JPEG). Before it a keyframe (PNG), where
//! the first frame was made from words.
//!
//! Encoding runs in threads of its own, one for the clip and one for the still pictures, so that frames are compressed while
//! later ones are still being decoded by the engine. The queues between them are bounded: a fast engine waits for the encoder.
//!
//! The same frames give the same bytes (invariant 11): threads, rounding and metadata are fixed, nothing comes from a
//! clock. The installed libx264 is part of the result, see [`version`].

mod beside;
mod clip;
mod colour;
mod error;
mod files;
mod keyframe;
mod spec;
mod stills;
mod version;
mod worker;

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// An 8-bit picture, rows from the top, red, green, blue. `from_raw` checks the buffer's length.
pub use image::RgbImage as RgbFrame;

use error::Action as _;
pub use error::EncodeError;
pub use files::EncodedFile;
pub use keyframe::keyframe;
pub use spec::EncoderSpec;
pub use stills::moving_picture;
pub use version::version;
use worker::{Command, Worker};

/// Frames that may wait for the encoder: one decode chunk, 14 MiB at 1024x576.
pub const FRAMES_QUEUED_MAX: usize = 8;

/// The finished files of one clip. They belong to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub clip: EncodedFile,
    pub poster: EncodedFile,
    pub preview: EncodedFile,
    pub spritesheet: EncodedFile,
    pub frames: u32,
    pub duration: Duration,
}

/// One clip being encoded. Dropping it without [`Encoder::finish`] aborts and deletes what was written.
#[derive(Debug)]
pub struct Encoder {
    spec: EncoderSpec,
    // `None` only inside `stop`.
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<Result<Option<Encoded>, EncodeError>>>,
}

impl Encoder {
    /// Opens the files in `out_dir` (an existing folder, used for this clip alone) and starts the thread.
    ///
    /// # Errors
    /// A spec out of range, by field; [`EncodeError::OutDir`]; [`EncodeError::CodecMissing`]; what ffmpeg or the disk says.
    pub fn start(spec: EncoderSpec, out_dir: &Path) -> Result<Self, EncodeError> {
        spec.validate()?;
        init()?;

        let (sender, receiver) = sync_channel(FRAMES_QUEUED_MAX);
        let (started, opened) = sync_channel(1);
        let folder = out_dir.to_owned();
        let thread = std::thread::Builder::new()
            .name("encoder".to_owned())
            .spawn(move || {
                // ffmpeg's scaler is bound to the thread that made it, so the worker is opened here.
                let worker = Worker::create(spec, &folder)?;
                let _ = started.send(());
                worker.run(&receiver)
            })
            .map_err(|source| EncodeError::Io {
                path: out_dir.to_owned(),
                source,
            })?;
        let mut encoder = Self {
            spec,
            commands: Some(sender),
            thread: Some(thread),
        };
        match opened.recv() {
            Ok(()) => Ok(encoder),
            Err(_) => Err(encoder.stop().err().unwrap_or(EncodeError::Stopped)),
        }
    }

    /// Queues the next frame and blocks while [`FRAMES_QUEUED_MAX`] frames wait. Frames play in the order of the calls.
    ///
    /// # Errors
    /// [`EncodeError::FrameSize`] (the frame is not taken, the clip goes on); [`EncodeError::Stopped`] when an earlier
    /// frame failed.
    pub fn push(&self, frame: RgbFrame) -> Result<(), EncodeError> {
        if frame.dimensions() != (self.spec.width, self.spec.height) {
            return Err(EncodeError::FrameSize {
                want_width: self.spec.width,
                want_height: self.spec.height,
                got_width: frame.width(),
                got_height: frame.height(),
            });
        }
        self.send(Command::Frame(frame))
    }

    /// Waits for the queued frames and completes the files.
    ///
    /// # Errors
    /// [`EncodeError::FrameCount`] unless exactly `spec.frames` frames were pushed, and whatever stopped the thread. No
    /// file is left then.
    pub fn finish(mut self) -> Result<Encoded, EncodeError> {
        // A stopped thread does not listen; its result says why.
        let _ = self.send(Command::Finish);
        self.stop()?.ok_or(EncodeError::Stopped)
    }

    fn send(&self, command: Command) -> Result<(), EncodeError> {
        let commands = self.commands.as_ref().ok_or(EncodeError::Stopped)?;
        commands.send(command).map_err(|_| EncodeError::Stopped)
    }

    /// Hangs up and waits for the thread, which ends after the frames that are queued.
    fn stop(&mut self) -> Result<Option<Encoded>, EncodeError> {
        drop(self.commands.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(EncodeError::Panicked),
            None => Ok(None),
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::debug!(%error, "aborted clip had failed");
        }
    }
}

/// Idempotent.
fn init() -> Result<(), EncodeError> {
    ffmpeg_next::init().action("start")?;
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Error);
    Ok(())
}

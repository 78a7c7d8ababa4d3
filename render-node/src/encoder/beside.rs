//! The still pictures of a clip, made in a thread beside the clip's own: after the last frame both have something left to do,
//! and the job waits for the longer of the two instead of for their sum.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use image::RgbImage;

use super::error::EncodeError;
use super::spec::EncoderSpec;
use super::stills::{self, Thumbnails};

/// Frames that may wait here, beside those that wait for the clip.
const FRAMES_QUEUED_MAX: usize = 4;

/// Whole files.
pub(super) struct Stills {
    pub(super) poster: Vec<u8>,
    pub(super) preview: Vec<u8>,
    pub(super) spritesheet: Vec<u8>,
}

/// What reaches the thread. A hang-up before `Finish` is an abort.
enum Command {
    Frame(Arc<RgbImage>),
    Finish,
}

/// Dropped before [`StillsThread::finish`] it makes nothing, and its thread ends by itself.
pub(super) struct StillsThread {
    commands: SyncSender<Command>,
    thread: JoinHandle<Result<Option<Stills>, EncodeError>>,
}

impl StillsThread {
    pub(super) fn start(spec: &EncoderSpec) -> Result<Self, EncodeError> {
        let thumbnails = Thumbnails::new(spec)?;
        let (commands, receiver) = sync_channel(FRAMES_QUEUED_MAX);
        let thread = std::thread::Builder::new()
            .name("stills".to_owned())
            .spawn(move || run(thumbnails, &receiver))
            .map_err(|source| EncodeError::Thread { source })?;
        Ok(Self { commands, thread })
    }

    /// Errors: [`EncodeError::Stopped`], whose cause [`StillsThread::finish`] returns.
    pub(super) fn push(&self, frame: Arc<RgbImage>) -> Result<(), EncodeError> {
        let sent = self.commands.send(Command::Frame(frame));
        sent.map_err(|_| EncodeError::Stopped)
    }

    /// Says that all frames were pushed. A stopped thread does not listen; its result says why.
    pub(super) fn close(&self) {
        let _ = self.commands.send(Command::Finish);
    }

    /// After [`StillsThread::close`]: waits for the pictures of all frames that were pushed, of which there must be one.
    pub(super) fn finish(self) -> Result<Stills, EncodeError> {
        match self.thread.join() {
            Ok(stills) => stills?.ok_or(EncodeError::Stopped),
            Err(_) => Err(EncodeError::Panicked),
        }
    }
}

fn run(
    mut thumbnails: Thumbnails,
    commands: &Receiver<Command>,
) -> Result<Option<Stills>, EncodeError> {
    let mut poster = None;
    while let Ok(command) = commands.recv() {
        match command {
            Command::Frame(frame) => {
                if poster.is_none() {
                    poster = Some(stills::poster(&frame)?);
                }
                thumbnails.write(&frame)?;
            }
            Command::Finish => {
                let (preview, spritesheet) = thumbnails.finish()?;
                return Ok(poster.map(|poster| Stills {
                    poster,
                    preview,
                    spritesheet,
                }));
            }
        }
    }
    Ok(None)
}

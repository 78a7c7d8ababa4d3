//! The encoding thread: frames in, four files out, or none.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use image::RgbImage;

use super::Encoded;
use super::beside::StillsThread;
use super::clip::ClipWriter;
use super::error::EncodeError;
use super::files::{self, OutputFiles};
use super::spec::EncoderSpec;

/// What reaches the thread. A hang-up before `Finish` is an abort.
pub(super) enum Command {
    Frame(RgbImage),
    Finish,
}

/// Everything that is open while a clip is written.
pub(super) struct Worker {
    spec: EncoderSpec,
    // Before `files`: the muxer closes its file before it is deleted.
    clip: ClipWriter,
    stills: StillsThread,
    frames: u32,
    files: OutputFiles,
}

impl Worker {
    pub(super) fn create(spec: EncoderSpec, out_dir: &Path) -> Result<Self, EncodeError> {
        let files = OutputFiles::inside(out_dir)?;
        Ok(Self {
            clip: ClipWriter::create(&spec, &files.clip)?,
            stills: StillsThread::start(&spec)?,
            frames: 0,
            files,
            spec,
        })
    }

    /// Runs until `Finish`, an error or a hang-up. `Ok(None)` is an aborted clip.
    pub(super) fn run(
        mut self,
        commands: &Receiver<Command>,
    ) -> Result<Option<Encoded>, EncodeError> {
        while let Ok(command) = commands.recv() {
            match command {
                Command::Frame(picture) => self.write(picture)?,
                Command::Finish => return self.finish().map(Some),
            }
        }
        Ok(None)
    }

    fn write(&mut self, picture: RgbImage) -> Result<(), EncodeError> {
        self.frames += 1;
        if self.frames > self.spec.frames {
            return Err(EncodeError::FrameCount {
                want: self.spec.frames,
                got: self.frames,
            });
        }
        let picture = Arc::new(picture);
        // One that has stopped says why when it is finished.
        let _ = self.stills.push(Arc::clone(&picture));
        self.clip.write(&picture)
    }

    fn finish(self) -> Result<Encoded, EncodeError> {
        if self.frames != self.spec.frames {
            return Err(EncodeError::FrameCount {
                want: self.spec.frames,
                got: self.frames,
            });
        }
        self.stills.close();
        self.clip.finish()?;
        let stills = self.stills.finish()?;
        let encoded = Encoded {
            clip: files::hash(&self.files.clip)?,
            poster: files::write(&self.files.poster, &stills.poster)?,
            preview: files::write(&self.files.preview, &stills.preview)?,
            spritesheet: files::write(&self.files.spritesheet, &stills.spritesheet)?,
            frames: self.frames,
            duration: self.spec.duration(),
        };
        self.files.keep();
        Ok(encoded)
    }
}

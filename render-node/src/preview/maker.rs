//! Makes the moving pictures beside the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flowai_actors::ids::Sha256;
use flowai_actors::limits::{PREVIEW_BYTES_MAX, PREVIEW_INTERVAL_MS};
use sha2::Digest as _;
use tokio::sync::watch;

use super::MovingPicture;
use crate::encoder::{EncodeError, RgbFrame, moving_picture};

/// A few frames say how it moves.
const FRAMES_MAX: usize = 8;
const INTERVAL: Duration = Duration::from_millis(PREVIEW_INTERVAL_MS);

/// The previews of one job. The newest takes the place of the one before it.
#[derive(Debug)]
pub struct PreviewMaker {
    every_steps: u32,
    due: Instant,
    /// Room for one; `None` when there is no thread to make pictures.
    painted: Option<SyncSender<Painted>>,
    is_busy: Arc<AtomicBool>,
    /// Microseconds of encoding.
    encoding_us: Arc<AtomicU64>,
}

/// What the engine guesses after a step.
struct Painted {
    step: u32,
    frames: Vec<RgbFrame>,
}

impl PreviewMaker {
    /// A picture after each `every_steps` steps (none for 0), and at most one in [`PREVIEW_INTERVAL_MS`]. `fps` is the clip's.
    pub fn start(every_steps: u32, fps: u32, newest: watch::Sender<Option<MovingPicture>>) -> Self {
        let is_busy = Arc::new(AtomicBool::new(false));
        let encoding_us = Arc::new(AtomicU64::new(0));
        let thread = Thread {
            fps,
            is_busy: is_busy.clone(),
            encoding_us: encoding_us.clone(),
            newest,
        };
        let painted = (every_steps > 0).then(|| thread.spawn()).flatten();
        Self {
            every_steps,
            due: Instant::now(),
            painted,
            is_busy,
            encoding_us,
        }
    }

    /// The wall time of encoding so far.
    pub fn encoding(&self) -> Duration {
        Duration::from_micros(self.encoding_us.load(Ordering::Relaxed))
    }

    /// Whether a picture of this step would be made. Asked before the engine paints it.
    pub fn wants(&self, step: u32) -> bool {
        self.painted.is_some()
            && step.is_multiple_of(self.every_steps)
            && self.due <= Instant::now()
            && !self.is_busy.load(Ordering::Acquire)
    }

    /// Takes the frames of a step that it wanted.
    pub fn take(&mut self, step: u32, frames: Vec<RgbFrame>) {
        self.due = Instant::now() + INTERVAL;
        self.is_busy.store(true, Ordering::Release);
        if let Some(painted) = &self.painted {
            // A thread that has ended has said why.
            painted.try_send(Painted { step, frames }).ok();
        }
    }

    /// No more pictures of this job.
    pub fn give_up(&mut self) {
        self.painted = None;
    }
}

/// What the thread that encodes them knows.
struct Thread {
    fps: u32,
    is_busy: Arc<AtomicBool>,
    encoding_us: Arc<AtomicU64>,
    newest: watch::Sender<Option<MovingPicture>>,
}

impl Thread {
    fn spawn(self) -> Option<SyncSender<Painted>> {
        let (painted, incoming) = sync_channel(1);
        let spawned = std::thread::Builder::new()
            .name("previews".to_owned())
            .spawn(move || self.run(&incoming));
        match spawned {
            Ok(_) => Some(painted),
            Err(error) => {
                tracing::warn!(%error, "job goes without previews");
                None
            }
        }
    }

    fn run(self, incoming: &Receiver<Painted>) {
        while let Ok(Painted { step, frames }) = incoming.recv() {
            let started = Instant::now();
            let encoded = small_enough(&frames, self.fps);
            let taken_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.encoding_us.fetch_add(taken_us, Ordering::Relaxed);
            match encoded {
                Ok(None) => {}
                Ok(Some(webp)) => {
                    let sha256 = Sha256::from_bytes(sha2::Sha256::digest(&webp).into());
                    let webp = Bytes::from(webp);
                    self.newest
                        .send_replace(Some(MovingPicture { step, sha256, webp }));
                }
                Err(error) => {
                    tracing::warn!(%error, "preview cannot be encoded; job goes on without");
                    return;
                }
            }
            self.is_busy.store(false, Ordering::Release);
        }
    }
}

/// As many frames as fit, spread over the clip and shown for as long as it; `None` when not one of them does.
fn small_enough(frames: &[RgbFrame], fps: u32) -> Result<Option<Vec<u8>>, EncodeError> {
    let mut shown = frames.len().min(FRAMES_MAX);
    loop {
        let spread = (0..shown).filter_map(|i| frames.get(i * frames.len() / shown));
        let slower = (fps as usize * shown).div_ceil(frames.len().max(1)).max(1);
        let webp = moving_picture(spread, slower as u32)?;
        if webp.len() as u64 <= PREVIEW_BYTES_MAX {
            return Ok(Some(webp));
        }
        shown /= 2;
        if shown == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(count: u32, side: u32) -> Vec<RgbFrame> {
        let pixel = |i: u32| {
            move |x: u32, y: u32| {
                let noise = (x * 7919 + y * 104_729 + i * 1_299_709).wrapping_mul(2_654_435_761);
                image::Rgb([(noise >> 24) as u8, (noise >> 16) as u8, (x + y) as u8])
            }
        };
        (0..count)
            .map(|i| RgbFrame::from_fn(side, side, pixel(i)))
            .collect()
    }

    fn wait_for(newest: &watch::Receiver<Option<MovingPicture>>, step: u32) -> MovingPicture {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            match newest.borrow().as_ref() {
                Some(picture) if picture.step == step => return picture.clone(),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        panic!("no picture of step {step}");
    }

    #[test]
    fn pictures_are_made_beside_the_engine_and_not_too_often() {
        let (sender, newest) = watch::channel(None);
        let mut maker = PreviewMaker::start(2, 7, sender);
        assert!(!maker.wants(1) && maker.wants(2));
        maker.take(2, frames(3, 32));
        assert!(!maker.wants(4), "one was made just now");
        let picture = wait_for(&newest, 2);
        assert_eq!(&picture.webp[8..12], b"WEBP");
        maker.due = Instant::now();
        assert!(maker.wants(4));
        maker.is_busy.store(true, Ordering::Release);
        assert!(!maker.wants(4), "one is in the making");
        assert!(!PreviewMaker::start(0, 7, watch::channel(None).0).wants(2));
    }

    #[test]
    fn a_picture_is_never_larger_than_may_be_sent() {
        let noisy = frames(25, 128);
        assert_eq!(small_enough(&frames(1, 1_024), 7).unwrap(), None);
        let webp = small_enough(&noisy, 7).unwrap().unwrap();
        assert!(webp.len() as u64 <= PREVIEW_BYTES_MAX, "{}", webp.len());
        let all = moving_picture(noisy.iter().take(FRAMES_MAX), 7).unwrap();
        assert!(
            all.len() as u64 > PREVIEW_BYTES_MAX,
            "{}: nothing had to be left out",
            all.len()
        );
    }
}

//! How a running job is paused, resumed and stopped from outside: it looks at each step boundary.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::EngineError;

/// The wish of the node about one job. Cheap to clone; all clones are the same wish.
#[derive(Debug, Clone, Default)]
pub struct Control {
    shared: Arc<Shared>,
    /// Cancelled by both ways to stop, for the parts of a job that wait for the network.
    stop: CancellationToken,
    /// Cancelled by [`Control::stop`] alone, for the parts that save what was made.
    drop: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    wish: Mutex<Wish>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wish {
    #[default]
    Go,
    Pause,
    Keep,
    Stop,
}

impl Control {
    /// Lets the job wait at its next boundary. A stopped one stays stopped.
    pub fn pause(&self) {
        self.want(Wish::Pause);
    }

    /// Lets a paused job go on.
    pub fn resume(&self) {
        self.want(Wish::Go);
    }

    /// Ends the job at its next boundary, also a paused one, and lets it write down how far it got. Only [`Control::stop`] takes
    /// that back.
    pub fn stop_and_keep(&self) {
        self.want(Wish::Keep);
        self.stop.cancel();
    }

    /// Ends the job at its next boundary, also a paused one; nothing of it is wanted. Final.
    pub fn stop(&self) {
        self.want(Wish::Stop);
        self.stop.cancel();
        self.drop.cancel();
    }

    /// Resolves when the job was stopped, in either way.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Resolves when nothing of the job is wanted.
    pub async fn dropped(&self) {
        self.drop.cancelled().await;
    }

    /// Whether the job was stopped to go on elsewhere.
    pub fn keeps(&self) -> bool {
        *self.wish() == Wish::Keep
    }

    /// Called by the job where it can stop. Blocks while it is paused.
    ///
    /// Errors: [`EngineError::Stopped`].
    pub fn boundary(&self) -> Result<(), EngineError> {
        let mut wish = self.wish();
        while *wish == Wish::Pause {
            wish = self
                .shared
                .changed
                .wait(wish)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match *wish {
            Wish::Keep | Wish::Stop => Err(EngineError::Stopped),
            Wish::Go | Wish::Pause => Ok(()),
        }
    }

    fn want(&self, wanted: Wish) {
        let mut wish = self.wish();
        let is_open = match *wish {
            Wish::Go | Wish::Pause => true,
            Wish::Keep => wanted == Wish::Stop,
            Wish::Stop => false,
        };
        if is_open {
            *wish = wanted;
        }
        self.shared.changed.notify_all();
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.shared
            .wish
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(10);

    /// A thread that passes boundaries and says so, until it is stopped.
    fn walker(control: &Control) -> mpsc::Receiver<bool> {
        let (passed, seen) = mpsc::sync_channel(0);
        let control = control.clone();
        thread::spawn(move || {
            while control.boundary().is_ok() {
                if passed.send(true).is_err() {
                    return;
                }
            }
            passed.send(false).ok();
        });
        seen
    }

    #[test]
    fn a_paused_job_waits_until_it_may_go_on() {
        let control = Control::default();
        control.pause();
        let seen = walker(&control);
        assert_eq!(
            seen.recv_timeout(Duration::from_millis(20)),
            Err(mpsc::RecvTimeoutError::Timeout)
        );
        control.resume();
        assert_eq!(seen.recv_timeout(LONG), Ok(true));
    }

    #[test]
    fn what_is_to_be_kept_can_still_be_dropped_and_not_the_other_way_round() {
        let control = Control::default();
        control.stop_and_keep();
        control.resume();
        assert!(control.keeps() && control.boundary().is_err());
        control.stop();
        control.stop_and_keep();
        assert!(!control.keeps() && control.boundary().is_err());
    }

    #[test]
    fn a_stop_wakes_a_paused_job_and_is_final() {
        let control = Control::default();
        control.pause();
        let seen = walker(&control);
        control.stop();
        control.resume();
        assert_eq!(seen.recv_timeout(LONG), Ok(false));
        assert!(control.boundary().is_err());
    }
}

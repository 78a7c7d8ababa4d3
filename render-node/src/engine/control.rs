//! How a running job is paused, resumed and stopped from outside: it looks at each step boundary.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::EngineError;

/// The wish of the node about one job. Cheap to clone; all clones are the same wish.
#[derive(Debug, Clone, Default)]
pub struct Control {
    shared: Arc<Shared>,
    /// Cancelled by [`Control::stop`], for the parts of a job that wait for the network.
    stop: CancellationToken,
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

    /// Ends the job at its next boundary, also a paused one. Final.
    pub fn stop(&self) {
        self.want(Wish::Stop);
        self.stop.cancel();
    }

    /// Resolves when the job was stopped.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
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
            Wish::Stop => Err(EngineError::Stopped),
            Wish::Go | Wish::Pause => Ok(()),
        }
    }

    fn want(&self, wanted: Wish) {
        let mut wish = self.wish();
        if *wish != Wish::Stop {
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

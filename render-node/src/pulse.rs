//! What a transfer says of itself: that it lives.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowai_actors::limits::PROGRESS_INTERVAL_MS;
use tokio::time::{Instant, timeout};

/// Hears that bytes moved, or that the store is asked again. Cheap to clone; all clones are the same.
///
/// A large file or an outage may take longer than the leader waits for a job of which it hears nothing.
#[derive(Clone)]
pub struct Pulse(Arc<Inner>);

struct Inner {
    beaten_at: Mutex<Option<Instant>>,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl Pulse {
    /// `tell` is called at most once in [`PROGRESS_INTERVAL_MS`].
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            beaten_at: Mutex::default(),
            tell: Box::new(tell),
        }))
    }

    /// For a transfer that nobody waits for.
    pub fn unheard() -> Self {
        Self::new(|| {})
    }

    /// Beats for as long as somebody waits, who knows that the wait has an end.
    pub(crate) async fn beat_while<T>(&self, waiting: impl Future<Output = T>) -> T {
        const INTERVAL: Duration = Duration::from_millis(PROGRESS_INTERVAL_MS);
        let mut waiting = pin!(waiting);
        loop {
            match timeout(INTERVAL, &mut waiting).await {
                Ok(done) => return done,
                Err(_) => self.beat(),
            }
        }
    }

    pub(crate) fn beat(&self) {
        const INTERVAL: Duration = Duration::from_millis(PROGRESS_INTERVAL_MS);
        {
            let beaten_at = self.0.beaten_at.lock();
            let mut beaten_at = beaten_at.unwrap_or_else(PoisonError::into_inner);
            if beaten_at.is_some_and(|at| at.elapsed() < INTERVAL) {
                return;
            }
            *beaten_at = Some(Instant::now());
        }
        (self.0.tell)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn many_beats_are_told_four_times_a_second() {
        let told = Arc::new(AtomicU32::new(0));
        let counted = told.clone();
        let pulse = Pulse::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..1_000 {
            pulse.clone().beat();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(told.load(Ordering::Relaxed), 4);
    }
}

//! Whether the farm's queue takes more. Looked at now and then, and believed meanwhile: a count at each submission would cost more
//! than the submission.

use std::time::{Duration, Instant};

use flowai_actors::limits::FARM_QUEUE_LOOK_MS;
use flowai_store::database::in_time;
use flowai_store::videos;
use tokio::sync::Mutex;

use crate::app::App;
use crate::error::ApiError;

/// What the last look found.
#[derive(Debug)]
pub(crate) struct QueueRoom {
    queued_max: u32,
    /// `None` before the first. Held during a look, so that those who come meanwhile wait for this one.
    looked: Mutex<Option<(Instant, Seen)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Room,
    Full,
    /// The database did not answer: those who waited for this look need not each wait for their own.
    Nothing,
}

impl QueueRoom {
    /// For so many unfinished jobs of all users.
    pub(crate) fn new(queued_max: u32) -> Self {
        Self {
            queued_max,
            looked: Mutex::default(),
        }
    }

    /// # Errors
    /// `QueueFull`, `DependencyDown`.
    pub(crate) async fn check(&self, app: &App) -> Result<(), ApiError> {
        let came = Instant::now();
        let mut looked = self.looked.lock().await;
        let is_known = |at: Instant, seen| match seen {
            Seen::Nothing => at >= came,
            Seen::Room | Seen::Full => at.elapsed() < Duration::from_millis(FARM_QUEUE_LOOK_MS),
        };
        let seen = match *looked {
            Some((at, seen)) if is_known(at, seen) => seen,
            _ => {
                let reaches = in_time(videos::farm_queue_reaches(&app.database, self.queued_max));
                let reaches = reaches.await;
                let seen = match reaches {
                    Ok(false) => Seen::Room,
                    Ok(true) => Seen::Full,
                    Err(_) => Seen::Nothing,
                };
                *looked = Some((Instant::now(), seen));
                reaches?;
                seen
            }
        };
        match seen {
            Seen::Room => Ok(()),
            Seen::Full => Err(ApiError::QueueFull),
            Seen::Nothing => Err(ApiError::DependencyDown("the database")),
        }
    }
}

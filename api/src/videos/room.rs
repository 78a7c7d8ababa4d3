//! Whether the farm's queue takes more. Looked at now and then, and believed meanwhile: a count at each submission would cost more
//! than the submission.

use std::time::{Duration, Instant};

use flowai_actors::limits::FARM_QUEUE_LOOK_MS;
use flowai_store::videos;
use tokio::sync::Mutex;

use crate::app::App;
use crate::error::ApiError;

/// What the last look found.
#[derive(Debug)]
pub(crate) struct QueueRoom {
    queued_max: u32,
    /// `None` before the first. Held during a look, so that those who come meanwhile wait for this one.
    looked: Mutex<Option<(Instant, bool)>>,
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
    /// `QueueFull`.
    pub(crate) async fn check(&self, app: &App) -> Result<(), ApiError> {
        let mut looked = self.looked.lock().await;
        let is_full = match *looked {
            Some((at, is_full)) if at.elapsed() < Duration::from_millis(FARM_QUEUE_LOOK_MS) => {
                is_full
            }
            _ => {
                let is_full = videos::farm_queue_reaches(&app.database, self.queued_max).await?;
                *looked = Some((Instant::now(), is_full));
                is_full
            }
        };
        match is_full {
            true => Err(ApiError::QueueFull),
            false => Ok(()),
        }
    }
}

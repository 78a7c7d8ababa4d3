//! Weeks of events: made before they begin, dropped when nobody may ask for them any more.

use std::time::Duration;

use flowai_actors::kit::TaskResult;
use flowai_actors::limits::{EVENT_WEEKS_AHEAD, EVENT_WEEKS_KEPT, EVENT_WEEKS_LOOK_MS};
use flowai_store::database::Database;
use flowai_store::events;

const EVERY: Duration = Duration::from_millis(EVENT_WEEKS_LOOK_MS);

/// Looks for as long as the term lasts. Whoever holds a table for long only puts it off: there are weeks ahead.
pub(super) async fn keep_weeks(database: Database) -> TaskResult {
    loop {
        if let Err(error) = events::keep_weeks(&database, EVENT_WEEKS_AHEAD, EVENT_WEEKS_KEPT).await
        {
            tracing::warn!(%error, "weeks of events were not made or dropped; trying again in an hour");
        }
        tokio::time::sleep(EVERY).await;
    }
}

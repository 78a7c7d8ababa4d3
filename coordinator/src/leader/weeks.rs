//! Weeks of events: made before they begin, dropped when nobody may ask for them any more.

use std::time::Duration;

use flowai_actors::kit::TaskResult;
use flowai_actors::limits::{EVENT_WEEKS_AHEAD, EVENT_WEEKS_KEPT, EVENT_WEEKS_LOOK_MS};
use flowai_store::database::Database;
use flowai_store::events;
use tokio::time::timeout;

const EVERY: Duration = Duration::from_millis(EVENT_WEEKS_LOOK_MS);
/// Several statements, each of which the server ends by itself, unless it has gone without a word.
const WITHIN: Duration = Duration::from_secs(60);

/// Looks for as long as the term lasts. Whoever holds a table for long only puts it off: there are weeks ahead.
pub(super) async fn keep_weeks(database: Database) -> TaskResult {
    loop {
        let kept = events::keep_weeks(&database, EVENT_WEEKS_AHEAD, EVENT_WEEKS_KEPT);
        match timeout(WITHIN, kept).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "weeks of events were not made or dropped; trying again in an hour");
            }
            Err(_) => tracing::warn!(
                "weeks of events were not made or dropped in time; trying again in an hour"
            ),
        }
        tokio::time::sleep(EVERY).await;
    }
}

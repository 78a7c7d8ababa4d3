//! Money balances (INV-6): the leader reads the ledger's own views of what does not, every minute or so.

use std::time::Duration;

use flowai_actors::kit::TaskResult;
use flowai_actors::limits::{
    LEDGER_AUDIT_MS, LEDGER_AUDIT_SHARE, LEDGER_AUDIT_WITHIN_MS, LEDGER_FINDINGS_MAX,
};
use flowai_store::database::Database;
use flowai_store::ledger;
use tokio::time::Instant;

use crate::metrics;

const EVERY: Duration = Duration::from_millis(LEDGER_AUDIT_MS);
const WITHIN: Duration = Duration::from_millis(LEDGER_AUDIT_WITHIN_MS);

/// Audits for as long as the term lasts. The ledger grows for ever, and so does what an audit takes: the pauses grow with it.
pub(super) async fn keep_auditing(database: Database) -> TaskResult {
    loop {
        let began_at = Instant::now();
        audit(&database).await;
        let took = began_at.elapsed();
        tokio::time::sleep(EVERY.max(took * LEDGER_AUDIT_SHARE)).await;
    }
}

/// What is wrong is logged and counted. One that is not finished says so, and leaves the last count to grow old.
pub(super) async fn audit(database: &Database) {
    match ledger::imbalances(database, LEDGER_FINDINGS_MAX, WITHIN).await {
        Ok(findings) => {
            for finding in &findings {
                tracing::error!(
                    invariant = finding.invariant,
                    subject = finding.subject,
                    finding = finding.finding,
                    "the ledger does not balance"
                );
            }
            metrics::record_ledger(findings.len());
        }
        Err(error) => tracing::warn!(%error, "the ledger was not audited"),
    }
}

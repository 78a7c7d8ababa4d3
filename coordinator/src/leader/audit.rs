//! Money balances (INV-6): the leader reads the ledger's own views of what does not, every minute or so.

use std::time::{Duration, SystemTime};

use flowai_actors::kit::TaskResult;
use flowai_actors::limits::{
    LEDGER_AUDIT_MS, LEDGER_AUDIT_SHARE, LEDGER_AUDIT_WITHIN_MS, LEDGER_FINDINGS_MAX,
};
use flowai_store::database::Database;
use flowai_store::ledger;
use tokio::time::{Instant, timeout};

use crate::metrics;

const EVERY: Duration = Duration::from_millis(LEDGER_AUDIT_MS);
const WITHIN: Duration = Duration::from_millis(LEDGER_AUDIT_WITHIN_MS);

/// What was found is said this often: numbers that are not said again vanish (`metrics.rs`).
const SAID_EVERY: Duration = Duration::from_secs(5);

/// What an audit found.
#[derive(Debug, Clone, Copy)]
struct Audited {
    violations: usize,
    at: SystemTime,
}

/// Audits for as long as the term lasts. The ledger grows for ever, and so does what an audit takes: the pauses grow with it.
pub(super) async fn keep_auditing(database: Database) -> TaskResult {
    let mut newest = None;
    loop {
        let began_at = Instant::now();
        newest = audit(&database).await.or(newest);
        let ended_at = Instant::now();
        let next_at = ended_at + EVERY.max((ended_at - began_at) * LEDGER_AUDIT_SHARE);
        while Instant::now() < next_at {
            if let Some(Audited { violations, at }) = newest {
                metrics::record_ledger(violations, at);
            }
            tokio::time::sleep(SAID_EVERY).await;
        }
    }
}

/// What is wrong is logged and counted. `None` for one that was not finished: the last count grows old.
async fn audit(database: &Database) -> Option<Audited> {
    let audit = ledger::imbalances(database, LEDGER_FINDINGS_MAX, WITHIN);
    // The server gives up by itself, unless it has gone without a word.
    let findings = match timeout(2 * WITHIN, audit).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the ledger was not audited");
            return None;
        }
        Err(_) => {
            tracing::warn!("the ledger was not audited in time");
            return None;
        }
    };
    for finding in &findings {
        tracing::error!(
            invariant = finding.invariant,
            subject = finding.subject,
            finding = finding.finding,
            "the ledger does not balance"
        );
    }
    Some(Audited {
        violations: findings.len(),
        at: SystemTime::now(),
    })
}

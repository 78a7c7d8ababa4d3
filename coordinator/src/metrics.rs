//! Numbers for Prometheus: what the queue, the nodes and the leader are like.
//!
//! Only a leader has queue figures; a coordinator that leads no more takes its own away, so that no dead leader's numbers stand
//! beside the living one's.

use std::net::SocketAddr;
use std::time::Duration;

use flowai_actors::ids::Epoch;
use flowai_actors::state::Tier;
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use metrics_util::MetricKindMask;

use crate::scheduler::{Figures, WaitsFor};

/// Bounds of decision times, seconds: around the goal of a millisecond.
const DECISION_SECONDS: [f64; 8] = [
    0.000_02, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.01, 0.1,
];
/// Numbers of a leader that no longer says any vanish after so long.
const STALE: Duration = Duration::from_secs(30);

/// Collects, and serves `GET /metrics` on this address. Once a process.
///
/// # Errors
/// The address cannot be listened on, or a recorder is installed already.
pub fn serve(address: SocketAddr) -> Result<(), BuildError> {
    let decisions = Matcher::Full("flowai_scheduler_decision_seconds".to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(decisions, &DECISION_SECONDS)?
        .idle_timeout(MetricKindMask::GAUGE, Some(STALE))
        .with_http_listener(address)
        .install()
}

/// One event of the leader was taken in.
pub(crate) fn record_decision(seconds: f64) {
    histogram!("flowai_scheduler_decision_seconds").record(seconds);
}

/// A batch was committed.
pub(crate) fn record_batch(changes: usize, seconds: f64) {
    histogram!("flowai_coordinator_journal_batch_seconds").record(seconds);
    counter!("flowai_coordinator_journal_changes_total").increment(changes as u64);
}

/// A change found its row held by somebody else, and changed nothing (INV-2).
pub(crate) fn record_fenced_write() {
    counter!("flowai_coordinator_fenced_writes_total").increment(1);
}

/// A job was believed to be what its row does not say.
pub(crate) fn record_drift() {
    counter!("flowai_coordinator_drifted_jobs_total").increment(1);
}

/// Takes down how the farm stands.
pub(crate) fn record(epoch: Epoch, figures: &Figures) {
    gauge!("flowai_coordinator_leader").set(1);
    gauge!("flowai_coordinator_epoch").set(epoch.get());
    for tier in Tier::ALL {
        for reason in WaitsFor::CODES {
            let jobs = figures.waiting.get(&(tier, reason)).copied().unwrap_or(0);
            let labels = [("tier", tier.as_str()), ("reason", reason)];
            gauge!("flowai_scheduler_queue_jobs", &labels).set(jobs as f64);
        }
        let running = figures.running[tier as usize];
        gauge!("flowai_scheduler_running_jobs", "tier" => tier.as_str()).set(running);
    }
    for (class, of_class) in &figures.classes {
        let gauge = |name: &'static str| gauge!(name, "gpu_class" => class.clone());
        gauge("flowai_scheduler_nodes").set(of_class.nodes);
        gauge("flowai_scheduler_idle_nodes").set(of_class.idle);
        gauge("flowai_scheduler_backlog_gpu_seconds").set(of_class.backlog_s);
        for (tier, wait) in Tier::ALL.into_iter().zip(of_class.wait) {
            let Some(wait) = wait else { continue };
            for (quantile, seconds) in [("0.5", wait.p50_s), ("0.9", wait.p90_s)] {
                let labels = [
                    ("tier", tier.as_str().to_owned()),
                    ("gpu_class", class.clone()),
                    ("quantile", quantile.to_owned()),
                ];
                gauge!("flowai_scheduler_predicted_wait_seconds", &labels).set(seconds);
            }
        }
    }
    counter!("flowai_scheduler_forced_starts_total").absolute(figures.forced_starts);
    counter!("flowai_scheduler_preemptions_total").absolute(figures.preemptions);
    if let Some(ratio) = figures.inside_p90 {
        gauge!("flowai_scheduler_estimate_inside_p90_ratio").set(ratio);
    }
}

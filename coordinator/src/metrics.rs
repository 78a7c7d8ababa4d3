//! Numbers for Prometheus: what the queue, the nodes and the leader are like.
//!
//! Only a leader has queue figures; a coordinator that leads no more takes its own away, so that no dead leader's numbers stand
//! beside the living one's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use flowai_actors::ids::Epoch;
use flowai_actors::link::RactorLink;
use flowai_actors::state::Tier;
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use metrics_util::MetricKindMask;

use crate::autoscaler::Decision;
use crate::scheduler::{Figures, WaitsFor};

/// Bounds of decision times, seconds: around the goal of a millisecond.
const DECISION_SECONDS: [f64; 8] = [
    0.000_02, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.01, 0.1,
];
/// Numbers of a leader that no longer says any vanish after so long.
const STALE: Duration = Duration::from_secs(30);
const LINK_LOOK: Duration = Duration::from_secs(5);

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

/// Takes down what the link has let through, refused and dropped, for as long as it is polled.
pub async fn follow_link(link: &RactorLink) -> Infallible {
    loop {
        for (event, count) in link.stats().named() {
            counter!("flowai_coordinator_link_total", "event" => event).absolute(count);
        }
        tokio::time::sleep(LINK_LOOK).await;
    }
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

/// An audit of the ledger that ended then found so many rows that break an invariant.
pub(crate) fn record_ledger(violations: usize, audited_at: SystemTime) {
    gauge!("flowai_ledger_violations").set(violations as f64);
    let since = audited_at.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs_f64();
    gauge!("flowai_ledger_audited_timestamp_seconds").set(seconds);
}

/// The autoscaler looked at one of its groups.
pub(crate) fn record_autoscaling(decision: &Decision) {
    let class = || decision.class.clone();
    gauge!("flowai_autoscaler_wanted", "class" => class()).set(decision.wanted);
    gauge!("flowai_autoscaler_ready", "class" => class()).set(decision.ready);
    let reason = decision.reason.code();
    counter!("flowai_autoscaler_decisions_total", "reason" => reason).increment(1);
}

/// The autoscaler's provider did not do as it was told.
pub(crate) fn record_provider_failure() {
    counter!("flowai_autoscaler_provider_failures_total").increment(1);
}

/// What of a term's counts the counters have: each term counts from none, and they go on.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    forced_starts: u64,
    preemptions: u64,
}

/// Whether this coordinator leads. Its other numbers of the farm vanish some time after its term: of each, those of who leads count.
pub(crate) fn record_standing(leads: bool) {
    gauge!("flowai_coordinator_leader").set(f64::from(u8::from(leads)));
}

/// Takes down how the farm stands. `counted` is of this term.
pub(crate) fn record(epoch: Epoch, figures: &Figures, counted: &mut Counted) {
    record_standing(true);
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
        gauge("flowai_scheduler_slow_nodes").set(of_class.slow);
        gauge("flowai_scheduler_distrusted_nodes").set(of_class.distrusted);
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
    let forced_starts = figures.forced_starts - counted.forced_starts;
    let preemptions = figures.preemptions - counted.preemptions;
    counter!("flowai_scheduler_forced_starts_total").increment(forced_starts);
    counter!("flowai_scheduler_preemptions_total").increment(preemptions);
    *counted = Counted {
        forced_starts: figures.forced_starts,
        preemptions: figures.preemptions,
    };
    if let Some(ratio) = figures.inside_p90 {
        gauge!("flowai_scheduler_estimate_inside_p90_ratio").set(ratio);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::scheduler::{ClassFigures, Range};

    use super::*;

    #[test]
    fn predicted_waits_are_told_by_tier_and_device_class() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let wait = |p50_s: f64| {
            Some(Range {
                p50_s,
                p90_s: 3.0 * p50_s,
            })
        };
        let class = ClassFigures {
            nodes: 2,
            slow: 1,
            backlog_s: 90.0,
            wait: [wait(40.0), wait(10.0), None],
            ..ClassFigures::default()
        };
        let figures = Figures {
            waiting: BTreeMap::from([((Tier::Free, "loading"), 7)]),
            running: [2, 0, 0],
            classes: BTreeMap::from([("gpu".to_owned(), class)]),
            forced_starts: 0,
            preemptions: 0,
            inside_p90: None,
        };
        let mut counted = Counted::default();
        metrics::with_local_recorder(&recorder, || {
            record(Epoch::new(3), &figures, &mut counted);
        });
        let told = handle.render();
        let waits = |tier: &str, quantile: &str| {
            let labels = format!("tier=\"{tier}\",gpu_class=\"gpu\",quantile=\"{quantile}\"");
            let series = format!("flowai_scheduler_predicted_wait_seconds{{{labels}}} ");
            let line = told.lines().find_map(|line| line.strip_prefix(&series));
            line.map(|value| value.parse::<f64>().unwrap())
        };
        assert_eq!(waits("free", "0.5"), Some(40.0), "{told}");
        assert_eq!(waits("free", "0.9"), Some(120.0));
        assert_eq!(waits("pro", "0.5"), Some(10.0));
        assert_eq!(waits("studio", "0.5"), None, "nothing is known");
        let queued = "flowai_scheduler_queue_jobs{tier=\"free\",reason=\"loading\"} 7";
        assert!(told.contains(queued), "{told}");
        for slow in [
            "slow_nodes{gpu_class=\"gpu\"} 1",
            "distrusted_nodes{gpu_class=\"gpu\"} 0",
        ] {
            assert!(told.contains(&format!("flowai_scheduler_{slow}")), "{told}");
        }
    }

    #[test]
    fn counts_go_on_from_term_to_term() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let of_term = |epoch: u32, counts: &[u64]| {
            let mut counted = Counted::default();
            for count in counts {
                let figures = Figures {
                    waiting: BTreeMap::new(),
                    running: [0, 0, 0],
                    classes: BTreeMap::new(),
                    forced_starts: *count,
                    preemptions: 2 * count,
                    inside_p90: None,
                };
                metrics::with_local_recorder(&recorder, || {
                    record(Epoch::new(epoch), &figures, &mut counted);
                });
            }
        };
        of_term(1, &[2, 5, 5]);
        of_term(2, &[0, 3]);
        let told = handle.render();
        for (name, count) in [("forced_starts", 8), ("preemptions", 16)] {
            let line = format!("flowai_scheduler_{name}_total {count}\n");
            assert!(told.contains(&line), "{told}");
        }
    }
}

//! Logs of all programs: JSON lines for machines, text on a terminal, and never a payload of the cluster.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
pub use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

/// Installs the log subscriber of a program on standard error. `RUST_LOG` sets the levels, and `default` is that of what it does not
/// name, except for some crates, which [`never_payloads`] holds at `info`.
///
/// Errors: a subscriber is installed already.
pub fn init(default: LevelFilter) -> Result<(), TryInitError> {
    let levels = EnvFilter::builder()
        .with_default_directive(default.into())
        .from_env_lossy();
    let text = std::io::stderr().is_terminal();
    // A line that cannot be written is nobody's end: it would be said on the same standard error, in words that panic.
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let lines = if text {
        lines.boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(levels).with_filter(never_payloads()))
        .try_init()
}

/// Stops everything below `info` from ractor and ractor_cluster, whatever the environment asks for: at `debug` they
/// print whole messages, and with them users' prompts. So do s3s and s3s-fs with requests, whose addresses are signed.
pub fn never_payloads() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    fn passes(metadata: &Metadata<'_>) -> bool {
        let room = metadata.target().split("::").next().unwrap_or_default();
        !matches!(room, "ractor" | "ractor_cluster" | "s3s" | "s3s_fs")
            || *metadata.level() <= Level::INFO
    }
    filter_fn(passes as fn(&Metadata<'_>) -> bool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn payloads_stay_out_at_every_level() {
        let captured = Captured::default();
        let writer = captured.clone();
        let lines = fmt::layer().with_writer(move || writer.clone());
        let all = EnvFilter::new("trace,ractor_cluster=trace");
        let subscriber = tracing_subscriber::registry()
            .with(lines.with_filter(all).with_filter(never_payloads()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "ractor_cluster::net::session", "SEND 'canary-payload'");
            tracing::trace!(target: "ractor::actor", "canary-payload");
            tracing::debug!(target: "s3s::service", "canary-payload");
            tracing::info!(target: "ractor_cluster::node", "session opened");
            tracing::trace!(target: "ractor_of_somebody_else", "own trace");
        });
        let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert!(!log.contains("canary-payload"), "{log}");
        assert!(
            log.contains("session opened") && log.contains("own trace"),
            "{log}"
        );
    }
}

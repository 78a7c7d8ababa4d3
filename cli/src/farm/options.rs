//! What a farm on one machine may be told.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use flowai_actors::credits::Millicredits;
use flowai_embedded::External;
use url::Url;

use super::FarmError;

/// One machine has few GPUs, and a CPU gains nothing from more nodes than cores.
const NODES_MAX: usize = 64;
/// One leads, the others stand by.
const COORDINATORS_MAX: usize = 9;

/// A farm to start. [`FarmOptions::new`] has what `flowai up` takes by default.
#[derive(Debug, Clone)]
pub struct FarmOptions {
    pub data: PathBuf,
    /// Where the programs lie.
    pub programs: PathBuf,
    /// The api's address. Port 0: any free one.
    pub listen: SocketAddr,
    /// 1..=64.
    pub nodes: usize,
    /// 1..=9: one leads, the others stand by.
    pub coordinators: usize,
    /// `None`: the data folder's own, with a small random model made when there is none.
    pub models: Option<PathBuf>,
    pub engine: Engine,
    /// Devices of the nodes, in turn. Never empty.
    pub devices: Vec<String>,
    pub dtype: String,
    /// Threads of each node's engine. `None`: the cores shared out among the nodes.
    pub threads: Option<usize>,
    /// Steps between two previews of a job; 0 for none.
    pub preview_steps: u32,
    /// Parts that somebody else runs.
    pub external: External,
    pub api: ApiOptions,
}

/// What the api of a farm is told beside where it listens; the meaning of each is in `docs/operations.md`.
#[derive(Debug, Clone, Default)]
pub struct ApiOptions {
    pub public_url: Option<Url>,
    pub is_tls_in_front: bool,
    pub metrics_listen: Option<SocketAddr>,
    pub signup_gift: Option<Millicredits>,
    pub rate_scale: Option<u32>,
}

/// What the nodes render with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Stable Video Diffusion.
    Svd,
    /// Renders no model, and says so in the manifest: for trying out faults.
    StandIn {
        /// How long a denoising step takes.
        step: Duration,
    },
}

impl FarmOptions {
    /// One coordinator and one node on the CPU, the api on any free port of loopback.
    pub fn new(data: PathBuf, programs: PathBuf) -> Self {
        Self {
            data,
            programs,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            nodes: 1,
            coordinators: 1,
            models: None,
            engine: Engine::Svd,
            devices: vec!["cpu".to_owned()],
            dtype: "float32".to_owned(),
            threads: None,
            preview_steps: 1,
            external: External::default(),
            api: ApiOptions::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), FarmError> {
        let refuse = |field, detail| Err(FarmError::Option { field, detail });
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return refuse("nodes", "must be 1..=64");
        }
        if !(1..=COORDINATORS_MAX).contains(&self.coordinators) {
            return refuse("coordinators", "must be 1..=9");
        }
        if self.devices.is_empty() {
            return refuse(
                "device",
                "must name at least one device, such as cpu or cuda:0",
            );
        }
        if self.threads == Some(0) {
            return refuse("threads", "must be at least 1");
        }
        Ok(())
    }

    /// Threads of one node's engine.
    pub(crate) fn threads_of_a_node(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or((cores / self.nodes).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut FarmOptions), refused: Option<&str>) {
        let mut options = FarmOptions::new("data".into(), "bin".into());
        change(&mut options);
        match (options.check(), refused) {
            (Ok(()), None) => {}
            (Err(FarmError::Option { field, .. }), Some(expected)) => assert_eq!(field, expected),
            (result, expected) => panic!("{result:?} is not {expected:?}"),
        }
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        check(|_| (), None);
        check(|o| o.nodes = 0, Some("nodes"));
        check(|o| o.nodes = 65, Some("nodes"));
        check(|o| o.coordinators = 0, Some("coordinators"));
        check(|o| o.devices.clear(), Some("device"));
        check(|o| o.threads = Some(0), Some("threads"));
    }

    #[test]
    fn cores_are_shared_out_and_never_none() {
        let mut options = FarmOptions::new("data".into(), "bin".into());
        options.nodes = NODES_MAX * 100;
        assert_eq!(options.threads_of_a_node(), 1);
        options.threads = Some(3);
        assert_eq!(options.threads_of_a_node(), 3);
    }
}

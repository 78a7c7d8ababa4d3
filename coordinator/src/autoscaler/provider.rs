//! Whoever makes and removes machines.

use std::future::Future;
use std::time::Duration;

use flowai_actors::ids::NodeId;

/// What a provider is told about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub class: String,
    /// Nodes that shall be there, those that come up included; drained ones are not counted.
    pub wanted: u32,
    /// Nodes that take jobs.
    pub ready: u32,
    /// Nodes that were drained for this and have ended their jobs: their machines may go.
    pub drained: Vec<NodeId>,
}

/// Why a provider did not do as it was told. It is told again later.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("program cannot be started: {0}")]
    Start(std::io::Error),
    #[error("program cannot be waited for: {0}")]
    Wait(std::io::Error),
    #[error("program was killed after {} s: FLOWAI_AUTOSCALE_COMMAND_S is the time it has", .0.as_secs())]
    Late(Duration),
    #[error("program ended with {status}; it said {said:?}")]
    Status {
        status: std::process::ExitStatus,
        /// The beginning of its stderr, or of its stdout where that is empty.
        said: String,
    },
}

/// Told the same again it does nothing more: a call says what shall be, and not what shall change.
pub trait Provider: Send + Sync + 'static {
    /// Whether nodes are drained for what is decided. Whoever changes nothing takes none away either.
    const DRAINS: bool;

    /// Done when the provider has taken the order, not when machines are up.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn want(&self, call: &Call) -> impl Future<Output = Result<(), ProviderError>> + Send;
}

/// Writes down what would be wanted, to be looked at before anything is bought.
#[derive(Debug, Clone, Copy)]
pub struct DryRun;

impl Provider for DryRun {
    const DRAINS: bool = false;

    async fn want(&self, call: &Call) -> Result<(), ProviderError> {
        let Call {
            class,
            wanted,
            ready,
            ..
        } = call;
        tracing::info!(class, wanted, ready, "dry run: a provider would be told");
        Ok(())
    }
}

use flowai_actors::kit::SpawnErr;

/// The node cannot work any more: the process must end.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("node actor did not start: {0}")]
    Start(#[from] SpawnErr),
    /// A bug: it has no reason to end without saying why.
    #[error("node actor has ended without a reason")]
    Gone,
}

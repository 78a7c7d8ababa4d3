use tch::Tensor;

/// The constants of a job: what the UNet computes from the image embedding and the number of frames alone.
///
/// Stable Video Diffusion gives cross-attention a single key. Its softmax is 1 whatever the query, so the attention's
/// output is one vector, the same at every place, in every frame and step.
#[derive(Debug)]
pub struct UnetContext {
    pub(super) down: Vec<Vec<TransformerContext>>,
    pub(super) mid: Vec<TransformerContext>,
    pub(super) up: Vec<Vec<TransformerContext>>,
}

/// The constants of one transformer.
#[derive(Debug)]
pub struct TransformerContext {
    /// Output of the spatial blocks' cross-attention, each (B, 1, 1, 1, C).
    pub(super) spatial: Vec<Tensor>,
    /// Output of the temporal blocks' cross-attention, each (B, 1, 1, 1, C).
    pub(super) temporal: Vec<Tensor>,
    /// What tells frames apart: (1, F, 1, 1, C).
    pub(super) frame_positions: Tensor,
}

use tch::Tensor;

use crate::error::Result;
use crate::nn::TimeBiases;

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

/// What the time adds in every resnet of the UNet, for all steps of a job.
#[derive(Debug)]
pub struct UnetTimes {
    pub(super) down: Vec<Vec<TimeBiases>>,
    pub(super) mid: Vec<TimeBiases>,
    pub(super) up: Vec<Vec<TimeBiases>>,
    /// Rows of a step: one for all clips of the batch, or one for each.
    pub(super) rows: i64,
}

impl UnetTimes {
    /// What of it belongs to one step.
    pub(super) fn at(&self, step: usize) -> Result<Self> {
        let start = step as i64 * self.rows;
        let of_block = |block: &Vec<TimeBiases>| {
            let rows = block.iter().map(|biases| biases.rows(start, self.rows));
            rows.collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            down: self.down.iter().map(of_block).collect::<Result<_>>()?,
            mid: of_block(&self.mid)?,
            up: self.up.iter().map(of_block).collect::<Result<_>>()?,
            rows: self.rows,
        })
    }
}

//! Who starts where. Every policy gets the same clips on the same nodes.

mod fair;
mod fifo;
mod flowai;
mod greedy;
mod strict;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use self::fair::Fair;
use self::fifo::Fifo;
use self::flowai::FlowAi;
use self::greedy::Greedy;
use self::strict::Strict;
use super::{End, Fleet, JobIx, Ms, NodeIx, Order, Workload};

pub use super::world::{Beat, Holds};

/// Is told what happens and answers with what shall happen, in order.
pub trait Policy {
    fn arrived(&mut self, job: JobIx, now: Ms) -> Vec<Order>;

    /// The node is free. After [`End::Stopped`] the job waits again.
    fn ended(&mut self, node: NodeIx, job: JobIx, end: End, now: Ms) -> Vec<Order>;

    /// Whether [`Policy::beat`] shall be called, for each node as often as real nodes beat.
    fn hears_beats(&self) -> bool {
        false
    }

    fn beat(&mut self, _node: NodeIx, _says: Beat<'_>, _now: Ms) -> Vec<Order> {
        Vec::new()
    }

    /// Which job the node will probably get next: its adapters come while the present one runs.
    fn ahead(&self, _node: NodeIx) -> Option<JobIx> {
        None
    }

    /// Within how long the job was promised to start with nine chances of ten, asked once when it has arrived.
    fn promised_ms(&mut self, _job: JobIx) -> Option<Ms> {
        None
    }
}

/// The policies that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The coordinator's scheduler itself.
    Flowai,
    /// First come, first served.
    Fifo,
    /// Studio before pro before free, first come first served within.
    Strict,
    /// Start-time fair queueing of users by their weights, and nothing else.
    Fair,
}

impl Choice {
    pub const ALL: [Self; 4] = [Self::Flowai, Self::Fifo, Self::Strict, Self::Fair];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flowai => "flowai",
            Self::Fifo => "fifo",
            Self::Strict => "strict",
            Self::Fair => "fair",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.as_str() == name)
    }

    pub(super) fn build<'a>(
        self,
        workload: &'a Workload,
        fleet: &'a Fleet,
    ) -> Box<dyn Policy + 'a> {
        match self {
            Self::Flowai => Box::new(FlowAi::new(workload, fleet)),
            Self::Fifo => Box::new(Greedy::new(Fifo::default(), workload, fleet)),
            Self::Strict => Box::new(Greedy::new(Strict::default(), workload, fleet)),
            Self::Fair => Box::new(Greedy::new(Fair::default(), workload, fleet)),
        }
    }
}

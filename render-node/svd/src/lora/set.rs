use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use flowai_model::Sha256Digest;
use flowai_model::adapter::{Adapter, ModuleDelta};

use super::LoraError;
use crate::engine::AdapterUse;

/// Adapters with their weights, in order of their hashes. The order in which a job names them changes nothing.
#[derive(Debug, Clone, Default)]
pub struct AdapterSet(Vec<(Arc<Adapter>, f64)>);

/// One adapter's change of one module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) adapter: &'a Adapter,
    /// Of the change among the adapter's.
    pub(super) index: usize,
    /// The job's weight for the adapter.
    pub(super) weight: f64,
}

impl<'a> Part<'a> {
    pub(super) fn delta(&self) -> &'a ModuleDelta {
        &self.adapter.modules[self.index]
    }
}

impl AdapterSet {
    /// Errors: a weight that is NaN or infinite, one adapter twice, two DoRA adapters for one module.
    pub fn new(mut adapters: Vec<(Arc<Adapter>, f64)>) -> Result<Self, LoraError> {
        adapters.sort_by_key(|(adapter, _)| adapter.sha256);
        if let Some((adapter, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
            return Err(LoraError::Weight {
                adapter: adapter.sha256,
                weight: *weight,
            });
        }
        if let Some(pair) = adapters
            .windows(2)
            .find(|pair| pair[0].0.sha256 == pair[1].0.sha256)
        {
            return Err(LoraError::Twice {
                adapter: pair[0].0.sha256,
            });
        }
        let set = Self(adapters);
        for (module, parts) in set.by_module() {
            let dora = |part: &&Part<'_>| part.delta().magnitude.is_some();
            let mut dora = parts.iter().filter(dora).map(|part| part.adapter.sha256);
            if let (Some(first), Some(second)) = (dora.next(), dora.next()) {
                return Err(LoraError::TwoDora {
                    module: module.to_owned(),
                    first,
                    second,
                });
            }
        }
        Ok(set)
    }

    /// What a manifest says of the set.
    pub fn uses(&self) -> Vec<AdapterUse> {
        self.0
            .iter()
            .map(|(adapter, weight)| AdapterUse {
                sha256: adapter.sha256,
                weight: *weight,
            })
            .collect()
    }

    pub(super) fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.0.iter().map(|(adapter, _)| adapter.as_ref())
    }

    /// Every module that the set changes, with its changes in order of the hashes.
    pub(super) fn by_module(&self) -> BTreeMap<&str, Vec<Part<'_>>> {
        let mut modules: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
        for (adapter, weight) in &self.0 {
            for (index, delta) in adapter.modules.iter().enumerate() {
                modules.entry(&delta.module).or_default().push(Part {
                    adapter,
                    index,
                    weight: *weight,
                });
            }
        }
        modules
    }
}

/// The name of what a model computes with: one model, one set of adapters and weights. Equal ids on machines of one device
/// class mean equal bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(Sha256Digest);

impl StateId {
    /// `model` is the hash of the model's files, `adapters` are in order of their hashes. Weights count by their bits.
    pub fn of(model: Sha256Digest, adapters: &[AdapterUse]) -> Self {
        let mut text = format!("model {model}\n");
        for AdapterUse { sha256, weight } in adapters {
            text.push_str(&format!("adapter {sha256} {:016x}\n", weight.to_bits()));
        }
        Self(Sha256Digest::of(text.as_bytes()))
    }

    pub fn digest(&self) -> Sha256Digest {
        self.0
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use flowai_model::adapter::{Adapter, ModuleTable};
use tch::{Device, Kind, Tensor};

use super::factors::Factors;
use super::fuse::Change;
use super::set::Part;
use super::{AdapterSet, DeviceTier, LoraError, StateId};
use crate::engine::{AdapterUse, Engine};
use crate::error::Result;
use crate::kernels::Sums;
use crate::params::{Params, Pristine};
use crate::refusal::refusals;
use crate::shim::Inference;

impl Engine {
    /// Reads an adapter file and resolves its keys in this model; see [`Adapter::open`].
    pub fn read_adapter(&self, path: &Path) -> Result<Adapter> {
        Ok(Adapter::open(path, &ModuleTable::of(&self.config().unet))?)
    }

    /// Lets every run started from now on compute with exactly the adapters of `set`; the empty set restores the model as it
    /// was loaded, bit for bit.
    ///
    /// Everything that can be known is checked before the first weight is written, so an error leaves the adapters as they
    /// were. Only when writing itself fails does the model fall back to no adapters. Should that fail too, runs are refused
    /// until another call succeeds: the weights are those of no set.
    ///
    /// Costs one pass over the weights that this set or the one before changes, in place. The first change of a weight that
    /// lies in the mapped file takes memory for it, which is kept for the next; a DoRA takes a copy of each weight that it
    /// changes, for the time of the call.
    ///
    /// Errors: an adapter of another model, a weight beyond the range of the model's precision, too little memory.
    pub fn set_adapters(&mut self, set: &AdapterSet) -> Result<()> {
        let _inference = Inference::enter();
        self.fuser.apply(&mut self.unet_params, set)
    }

    /// What the engine computes with now. The first call may hash the model.
    pub fn state_id(&self) -> Result<StateId> {
        Ok(StateId::of(self.identity()?.sha256, self.adapters()))
    }

    /// How many bytes of factors stay on a GPU after a switch; those that are there over it go. Nothing on a CPU.
    pub fn limit_device_tier(&mut self, bytes_max: u64) {
        self.fuser.limit_device_tier(bytes_max);
    }

    /// Factors that lie on the GPU; `None` on a CPU.
    pub fn device_tier(&self) -> Option<&DeviceTier> {
        self.fuser.device_tier()
    }
}

/// The weights that adapters change, by the path of their module in the UNet.
pub trait FusableWeights {
    /// The weight as the model file has it. `None` when there is no such module.
    fn pristine(&self, module: &str) -> Result<Option<Pristine>>;

    /// Lets `fill` write the weight that the module computes with from now on: in place, all of it, at once or before the
    /// weights are used again. What it is given stays where it is for as long as these weights live.
    fn write(&mut self, module: &str, fill: impl FnOnce(&mut Tensor) -> Result<()>) -> Result<()>;

    /// Lets the module compute with the pristine weight again.
    fn restore(&mut self, module: &str) -> Result<()>;
}

impl FusableWeights for Params {
    fn pristine(&self, module: &str) -> Result<Option<Pristine>> {
        let name = weight_name(module);
        let is_there = self.shape(&name).is_ok();
        is_there.then(|| Self::pristine(self, &name)).transpose()
    }

    fn write(&mut self, module: &str, fill: impl FnOnce(&mut Tensor) -> Result<()>) -> Result<()> {
        Self::write(self, &weight_name(module), fill)
    }

    fn restore(&mut self, module: &str) -> Result<()> {
        Self::restore(self, &weight_name(module))
    }
}

fn weight_name(module: &str) -> String {
    format!("{module}.weight")
}

/// Knows which adapters are fused into a model's weights, none at first.
///
/// The default is for weights on a CPU; [`Fuser::on`] for any device.
#[derive(Debug, Default)]
pub struct Fuser {
    adapters: Vec<AdapterUse>,
    /// Modules that may compute with another weight than the pristine one.
    touched: BTreeSet<String>,
    /// Taking adapters out failed half-way, so the touched modules compute with weights of no known set.
    is_mixed: bool,
    /// `None` where factors are read from the adapters' own bytes.
    pub(super) device_tier: Option<DeviceTier>,
}

/// What shall become of a module's weight.
enum Plan<'a> {
    /// Computed as it is written.
    Write(Change<'a>, Vec<FactorsOf<'a>>),
    /// Computed before, because it might not have been finite.
    Put(Tensor),
}

/// Factors for one switch, or those that stay on the device.
enum FactorsOf<'a> {
    Own(Factors),
    Kept(&'a Factors),
}

impl FactorsOf<'_> {
    fn get(&self) -> &Factors {
        match self {
            Self::Own(factors) => factors,
            Self::Kept(factors) => factors,
        }
    }
}

impl Fuser {
    /// For weights on this device. `device_bytes_max`: of factors that are kept there (T1); means nothing on a CPU.
    pub fn on(device: Device, device_bytes_max: u64) -> Self {
        let has_own_memory = device != Device::Cpu;
        Self {
            device_tier: has_own_memory.then(|| DeviceTier::new(device, device_bytes_max)),
            ..Self::default()
        }
    }

    /// The adapters that are fused now, in order of their hashes. Says nothing of weights that are mixed.
    pub fn adapters(&self) -> &[AdapterUse] {
        &self.adapters
    }

    pub fn device_tier(&self) -> Option<&DeviceTier> {
        self.device_tier.as_ref()
    }

    /// See [`Engine::limit_device_tier`].
    pub fn limit_device_tier(&mut self, bytes_max: u64) {
        if let Some(tier) = &mut self.device_tier {
            tier.limit(bytes_max);
        }
    }

    /// Errors: [`LoraError::Mixed`], when the weights are not those of [`Fuser::adapters`].
    pub fn require_known(&self) -> std::result::Result<(), LoraError> {
        match self.is_mixed {
            true => Err(LoraError::Mixed),
            false => Ok(()),
        }
    }

    /// See [`Engine::set_adapters`].
    pub fn apply(&mut self, weights: &mut impl FusableWeights, set: &AdapterSet) -> Result<()> {
        let adapters = set.uses();
        if adapters == self.adapters && !self.is_mixed {
            return Ok(());
        }
        let by_module = set.by_module();
        let changes = changes(weights, &by_module)?;
        let mut tier = self.device_tier.take();
        // Each by itself: what a refusal ends must not take the tier along, nor what is known of the weights.
        let result = refusals(|| hold_all(tier.as_mut(), set))
            .and_then(|()| refusals(|| plan(changes, tier.as_ref())))
            .and_then(|plans| self.put(weights, plans, adapters));
        if let Some(tier) = &mut tier {
            set.adapters()
                .for_each(|adapter| tier.release(adapter.sha256));
        }
        self.device_tier = tier;
        result
    }

    /// Carries the plans out, or falls back to no adapters.
    fn put(
        &mut self,
        weights: &mut impl FusableWeights,
        plans: BTreeMap<&str, Plan<'_>>,
        adapters: Vec<AdapterUse>,
    ) -> Result<()> {
        if let Err(error) = refusals(|| self.write(weights, &plans)) {
            self.adapters.clear();
            // The first failure is what the caller can act on; the second one mostly repeats it.
            self.is_mixed = refusals(|| self.write(weights, &BTreeMap::new())).is_err();
            return Err(error);
        }
        self.adapters = adapters;
        self.is_mixed = false;
        Ok(())
    }

    /// Writes the weights of the plans, and the pristine ones of all other modules that were touched.
    fn write(
        &mut self,
        weights: &mut impl FusableWeights,
        plans: &BTreeMap<&str, Plan<'_>>,
    ) -> Result<()> {
        self.touched
            .extend(plans.keys().map(|&module| module.to_owned()));
        let mut sums = Sums::default();
        for module in &self.touched {
            match plans.get(module.as_str()) {
                Some(Plan::Write(change, factors)) => {
                    let factors: Vec<&Factors> = factors.iter().map(FactorsOf::get).collect();
                    weights.write(module, |value| change.write(&factors, value, &mut sums))?;
                }
                Some(Plan::Put(fused)) => {
                    weights.write(module, |value| Ok(value.f_copy_(fused)?))?;
                }
                None if restores_later(weights, module, &mut sums)? => {}
                None => weights.restore(module)?,
            }
        }
        sums.write();
        self.touched
            .retain(|module| plans.contains_key(module.as_str()));
        Ok(())
    }
}

/// Leaves the copy of the pristine weight to `sums`, where that reads the weight from where it is kept: with the weights, whose
/// file stays mapped while they live.
fn restores_later(
    weights: &mut impl FusableWeights,
    module: &str,
    sums: &mut Sums,
) -> Result<bool> {
    let Some(pristine) = weights.pristine(module)?.filter(Pristine::is_f32_matrix) else {
        return Ok(false);
    };
    let pristine = pristine.whole()?;
    let (rows, columns) = pristine.size2()?;
    let place = (Kind::Float, pristine.device());
    let (up, down) = (
        Tensor::f_zeros([rows, 0], place)?,
        Tensor::f_zeros([0, columns], place)?,
    );
    weights.write(module, |value| {
        match sums.add(value, &pristine, &up, &down) {
            true => Ok(()),
            false => Ok(value.f_copy_(&pristine)?),
        }
    })?;
    Ok(true)
}

/// The changes of all modules, each of which the model has.
fn changes<'a>(
    weights: &impl FusableWeights,
    by_module: &'a BTreeMap<&'a str, Vec<Part<'a>>>,
) -> Result<Vec<Change<'a>>> {
    let change = |(module, parts): (&&'a str, &'a Vec<Part<'a>>)| {
        let no_such_module = || LoraError::NoSuchModule {
            module: (*module).to_owned(),
        };
        let pristine = weights.pristine(module)?.ok_or_else(no_such_module)?;
        let change = Change {
            module,
            parts,
            pristine,
        };
        change.check()?;
        Ok(change)
    };
    by_module.iter().map(change).collect()
}

/// An error holds those that came before it, which the caller releases with all others.
fn hold_all(tier: Option<&mut DeviceTier>, set: &AdapterSet) -> Result<()> {
    match tier {
        Some(tier) => set.adapters().try_for_each(|adapter| tier.hold(adapter)),
        None => Ok(()),
    }
}

/// What can be known before the first weight is written.
fn plan<'a>(
    changes: Vec<Change<'a>>,
    tier: Option<&'a DeviceTier>,
) -> Result<BTreeMap<&'a str, Plan<'a>>> {
    let mut plans = BTreeMap::new();
    for change in changes {
        let factors = change.parts.iter().map(|part| factors(part, tier));
        let factors = factors.collect::<Result<Vec<_>>>()?;
        let module = change.module;
        let plan = if change.is_plain() {
            Plan::Write(change, factors)
        } else {
            let factors: Vec<&Factors> = factors.iter().map(FactorsOf::get).collect();
            Plan::Put(change.compute(&factors)?)
        };
        plans.insert(module, plan);
    }
    Ok(plans)
}

fn factors<'a>(part: &Part<'a>, tier: Option<&'a DeviceTier>) -> Result<FactorsOf<'a>> {
    let kept = tier
        .and_then(|tier| tier.factors(part.adapter.sha256))
        .and_then(|factors| factors.get(part.index));
    Ok(match kept {
        Some(factors) => FactorsOf::Kept(factors),
        None => FactorsOf::Own(Factors::borrowed(part.delta())?),
    })
}

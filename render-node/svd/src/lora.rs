//! Fusing adapters into weights, and taking them out again without a trace.
//!
//! A fused weight is `round(W0 + sum_i w_i * s_i * B_i A_i)`: always from the weight as the model file has it, summed in
//! f32 in order of the adapters' hashes, rounded once. Adding an adapter and subtracting it again is not the identity in
//! any float type, so nothing is ever subtracted: the pristine weight is put back. Equal sets thus give equal bits, whatever
//! was fused before (invariant 11), and a set is applied whole or not at all (invariant 10).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use flowai_model::Sha256Digest;
use flowai_model::adapter::{Adapter, ModuleDelta, ModuleTable};
use tch::{Kind, Tensor};

use crate::engine::{AdapterUse, Engine};
use crate::error::Result;
use crate::params::Params;
use crate::tensor_file;

/// Why a set of adapters was not applied, or a run not started.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    #[error("weight of adapter {adapter} must be a finite number (got {weight})")]
    Weight { adapter: Sha256Digest, weight: f64 },
    #[error("adapter {adapter} is asked for twice; give it one weight")]
    Twice { adapter: Sha256Digest },
    #[error(
        "this model has no {module} of that shape: the adapter was checked against another model"
    )]
    NoSuchModule { module: String },
    #[error("{module} exceeds the range of {kind:?} with these adapters; lower their weights")]
    OutOfRange { module: String, kind: Kind },
    #[error(
        "some weights are still those of an earlier set, because putting them back failed; set adapters again"
    )]
    Mixed,
}

/// Adapters with their weights, in order of their hashes. The order in which a job names them changes nothing.
#[derive(Debug, Clone, Default)]
pub struct AdapterSet(Vec<(Arc<Adapter>, f64)>);

impl AdapterSet {
    /// Errors: a weight that is NaN or infinite, one adapter twice.
    pub fn new(mut adapters: Vec<(Arc<Adapter>, f64)>) -> std::result::Result<Self, LoraError> {
        adapters.sort_by_key(|(adapter, _)| adapter.sha256);
        if let Some((adapter, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
            return Err(LoraError::Weight {
                adapter: adapter.sha256,
                weight: *weight,
            });
        }
        match adapters
            .windows(2)
            .find(|pair| pair[0].0.sha256 == pair[1].0.sha256)
        {
            Some(pair) => Err(LoraError::Twice {
                adapter: pair[0].0.sha256,
            }),
            None => Ok(Self(adapters)),
        }
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

    /// Every module that the set changes, with its changes and what each is multiplied by, in order of the hashes.
    fn by_module(&self) -> BTreeMap<&str, Vec<(&ModuleDelta, f64)>> {
        let mut modules: BTreeMap<&str, Vec<(&ModuleDelta, f64)>> = BTreeMap::new();
        for (adapter, weight) in &self.0 {
            for delta in &adapter.modules {
                modules
                    .entry(&delta.module)
                    .or_default()
                    .push((delta, weight * delta.scale));
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
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Engine {
    /// Reads an adapter file and resolves its keys in this model; see [`Adapter::open`].
    pub fn read_adapter(&self, path: &Path) -> Result<Adapter> {
        Ok(Adapter::open(path, &ModuleTable::of(&self.config().unet))?)
    }

    /// Lets every run started from now on compute with exactly the adapters of `set`; the empty set restores the model as it
    /// was loaded, bit for bit.
    ///
    /// All new weights are computed before the first is put in place, so an error leaves the adapters as they were. Only when
    /// putting in place itself fails does the model fall back to no adapters. Should that fail too, runs are refused until
    /// another call succeeds: the weights are those of no set. Costs, beside the arithmetic, a copy of every weight that the
    /// set changes, for as long as it is applied.
    ///
    /// Errors: an adapter of another model, a weight beyond the range of the model's precision, too little memory.
    pub fn set_adapters(&mut self, set: &AdapterSet) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        self.fuser.apply(&mut self.unet_params, set)
    }

    /// What the engine computes with now. The first call may hash the model.
    pub fn state_id(&self) -> Result<StateId> {
        Ok(StateId::of(self.identity()?.sha256, self.adapters()))
    }
}

/// The weights that adapters change, by the path of their module in the UNet.
pub trait FusableWeights {
    /// The weight as the model file has it, in the reference's shape, in the precision and on the device that the model
    /// computes with. `None` when there is no such module. The tensor is not written to.
    fn pristine(&self, module: &str) -> Result<Option<Tensor>>;

    /// Lets the module compute with `weight` from now on.
    fn replace(&mut self, module: &str, weight: &Tensor) -> Result<()>;

    /// Lets the module compute with the pristine weight again.
    fn restore(&mut self, module: &str) -> Result<()>;
}

impl FusableWeights for Params {
    fn pristine(&self, module: &str) -> Result<Option<Tensor>> {
        let name = weight_name(module);
        let is_there = self.shape(&name).is_ok();
        is_there.then(|| Self::pristine(self, &name)).transpose()
    }

    fn replace(&mut self, module: &str, weight: &Tensor) -> Result<()> {
        Self::replace(self, &weight_name(module), weight)
    }

    fn restore(&mut self, module: &str) -> Result<()> {
        Self::restore(self, &weight_name(module))
    }
}

fn weight_name(module: &str) -> String {
    format!("{module}.weight")
}

/// Knows which adapters are fused into a model's weights, none at first.
#[derive(Debug, Default)]
pub struct Fuser {
    adapters: Vec<AdapterUse>,
    /// Modules that may compute with another weight than the pristine one.
    touched: BTreeSet<String>,
    /// Taking adapters out failed half-way, so the touched modules compute with weights of no known set.
    is_mixed: bool,
}

impl Fuser {
    /// The adapters that are fused now, in order of their hashes. Says nothing of weights that are mixed.
    pub fn adapters(&self) -> &[AdapterUse] {
        &self.adapters
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
        let mut fused = BTreeMap::new();
        for (module, deltas) in set.by_module() {
            fused.insert(module, fuse(weights, module, &deltas)?);
        }
        if let Err(error) = self.put(weights, fused) {
            self.adapters.clear();
            // The first failure is what the caller can act on; the second one mostly repeats it.
            self.is_mixed = self.put(weights, BTreeMap::new()).is_err();
            return Err(error);
        }
        self.adapters = adapters;
        self.is_mixed = false;
        Ok(())
    }

    /// Puts the fused weights in place, and the pristine ones of all other modules.
    fn put(
        &mut self,
        weights: &mut impl FusableWeights,
        fused: BTreeMap<&str, Tensor>,
    ) -> Result<()> {
        self.touched
            .extend(fused.keys().map(|&module| module.to_owned()));
        for module in &self.touched {
            match fused.get(module.as_str()) {
                Some(weight) => weights.replace(module, weight)?,
                None => weights.restore(module)?,
            }
        }
        self.touched
            .retain(|module| fused.contains_key(module.as_str()));
        Ok(())
    }
}

/// The weight of one module with these changes: `round(W0 + sum_i s_i B_i A_i)`.
fn fuse(
    weights: &impl FusableWeights,
    module: &str,
    deltas: &[(&ModuleDelta, f64)],
) -> Result<Tensor> {
    let no_such_module = || LoraError::NoSuchModule {
        module: module.to_owned(),
    };
    let pristine = weights.pristine(module)?.ok_or_else(no_such_module)?;
    let shape = pristine.size();
    let fits = |delta: &ModuleDelta| {
        delta
            .weight_shape()
            .iter()
            .map(|&n| n as i64)
            .eq(shape.iter().copied())
    };
    if !deltas.iter().all(|(delta, _)| fits(delta)) {
        return Err(no_such_module().into());
    }
    let kind = pristine.f_kind()?;

    // A copy even where the weight is f32 already: the pristine one may lie in a mapped file.
    let mut sum = pristine
        .f_to_dtype(Kind::Float, false, true)?
        .f_flatten(1, -1)?;
    for (delta, factor) in deltas {
        let matrix = |half| -> Result<Tensor> {
            let matrix = tensor_file::read(half)?.f_to_device(pristine.device())?;
            // A kernel's axes are columns.
            Ok(matrix.f_to_kind(Kind::Float)?.f_flatten(1, -1)?)
        };
        let mut change = matrix(&delta.up)?.f_matmul(&matrix(&delta.down)?)?;
        sum = sum.f_add_(&change.f_mul_scalar_(*factor)?)?;
    }
    let fused = sum.f_to_kind(kind)?.f_view(shape.as_slice())?;
    if fused.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(LoraError::OutOfRange {
            module: module.to_owned(),
            kind,
        }
        .into());
    }
    Ok(fused)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use flowai_model::adapter::AdapterFormat;
    use flowai_model::synthetic::{self, AdapterSpec};
    use flowai_model::{Preset, inventory};

    use super::*;
    use crate::error::EngineError;

    /// Weights in a map, and which of them were replaced.
    struct Map {
        pristine: HashMap<String, Tensor>,
        replaced: HashMap<String, Tensor>,
        /// Replacing this module fails.
        broken: Option<String>,
        /// Restoring this module fails.
        unrestorable: Option<String>,
    }

    impl Map {
        /// The convolutions and projections of the dummy UNet.
        fn new(kind: Kind) -> Self {
            let tensor = |spec: inventory::TensorSpec| {
                let module = spec.name.strip_suffix(".weight")?.to_owned();
                let shape: Vec<i64> = spec.shape.iter().map(|&side| side as i64).collect();
                let values = synthetic::tensor(&format!("unet.{}", spec.name), &spec.shape, 0);
                Some((
                    module,
                    Tensor::from_slice(&values).reshape(shape).to_kind(kind),
                ))
            };
            let pristine = inventory::unet(&Preset::Dummy.config().unet)
                .into_iter()
                .filter_map(tensor)
                .collect();
            Self {
                pristine,
                replaced: HashMap::new(),
                broken: None,
                unrestorable: None,
            }
        }

        fn weight(&self, module: &str) -> &Tensor {
            self.replaced.get(module).unwrap_or(&self.pristine[module])
        }

        /// The bytes of all weights that the model computes with, by module.
        fn bits(&self) -> BTreeMap<String, Vec<u8>> {
            let bytes = |module: &String| {
                let weight = self.weight(module).contiguous();
                let mut bytes = vec![0; weight.numel() * weight.kind().elt_size_in_bytes()];
                weight.copy_data_u8(&mut bytes, weight.numel());
                (module.clone(), bytes)
            };
            self.pristine.keys().map(bytes).collect()
        }
    }

    impl FusableWeights for Map {
        fn pristine(&self, module: &str) -> Result<Option<Tensor>> {
            Ok(self.pristine.get(module).map(Tensor::shallow_clone))
        }

        fn replace(&mut self, module: &str, weight: &Tensor) -> Result<()> {
            if self.broken.as_deref() == Some(module) {
                return Err(EngineError::OutOfMemory("no place for it".into()));
            }
            self.replaced
                .insert(module.to_owned(), weight.shallow_clone());
            Ok(())
        }

        fn restore(&mut self, module: &str) -> Result<()> {
            if self.unrestorable.as_deref() == Some(module) {
                return Err(EngineError::DeviceLost("gone".into()));
            }
            self.replaced.remove(module);
            Ok(())
        }
    }

    fn adapter(targets: &[&str], seed: u64) -> Arc<Adapter> {
        let table = ModuleTable::of(&Preset::Dummy.config().unet);
        let spec = AdapterSpec {
            format: AdapterFormat::Kohya,
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            ranks: vec![2, 5],
            alphas: vec![3.0],
            use_rslora: false,
            seed,
        };
        let bytes = synthetic::adapter_bytes(&table, &spec).unwrap();
        Arc::new(Adapter::read(bytes.into(), None, &table).unwrap())
    }

    fn set(adapters: &[(&Arc<Adapter>, f64)]) -> AdapterSet {
        AdapterSet::new(
            adapters
                .iter()
                .map(|(adapter, weight)| (Arc::clone(adapter), *weight))
                .collect(),
        )
        .unwrap()
    }

    #[test]
    fn a_fused_weight_is_the_pristine_one_plus_the_scaled_product() {
        let mut map = Map::new(Kind::Float);
        let adapter = adapter(&["conv_in"], 1);
        let delta = &adapter.modules[0];
        Fuser::default()
            .apply(&mut map, &set(&[(&adapter, 0.5)]))
            .unwrap();

        let (down, up) = (delta.down.to_f32(), delta.up.to_f32());
        let (rank, columns) = (delta.rank, 8 * 3 * 3);
        let pristine = Vec::<f32>::try_from(map.pristine["conv_in"].reshape([-1])).unwrap();
        let fused = Vec::<f32>::try_from(map.weight("conv_in").reshape([-1])).unwrap();
        assert_eq!(map.weight("conv_in").size(), [32, 8, 3, 3]);
        for (i, value) in fused.iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let product: f64 = (0..rank)
                .map(|r| f64::from(up[row * rank + r]) * f64::from(down[r * columns + column]))
                .sum();
            let expected = f64::from(pristine[i]) + 0.5 * (3.0 / rank as f64) * product;
            assert!(
                (f64::from(*value) - expected).abs() < 1e-6,
                "{i}: {value} {expected}"
            );
        }
    }

    #[test]
    fn switching_and_restoring_leave_no_trace_in_any_dtype() {
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
            let a = adapter(&["to_q", "to_v", "conv1", "conv_in"], 1);
            let b = adapter(&["to_v", "proj_in", "conv1"], 2);
            let mut map = Map::new(kind);
            let mut fuser = Fuser::default();
            let pristine = map.bits();

            fuser.apply(&mut map, &set(&[(&a, 0.7)])).unwrap();
            let with_a = map.bits();
            assert_ne!(with_a, pristine);
            fuser
                .apply(&mut map, &set(&[(&a, 0.7), (&b, 1.3)]))
                .unwrap();
            assert_ne!(map.bits(), with_a);
            fuser.apply(&mut map, &set(&[(&b, -1.0)])).unwrap();
            fuser.apply(&mut map, &set(&[(&a, 0.7)])).unwrap();
            assert_eq!(map.bits(), with_a, "{kind:?}");
            fuser.apply(&mut map, &set(&[])).unwrap();
            assert_eq!(map.bits(), pristine, "{kind:?}");
            assert!(map.replaced.is_empty() && fuser.touched.is_empty());
        }
    }

    #[test]
    fn the_order_of_a_jobs_adapters_changes_no_bit() {
        let (a, b) = (adapter(&["to_v"], 1), adapter(&["to_v"], 2));
        let bits = |adapters: &[(&Arc<Adapter>, f64)]| {
            let mut map = Map::new(Kind::BFloat16);
            let mut fuser = Fuser::default();
            fuser.apply(&mut map, &set(adapters)).unwrap();
            (map.bits(), fuser.adapters)
        };
        assert_eq!(bits(&[(&a, 0.7), (&b, 1.3)]), bits(&[(&b, 1.3), (&a, 0.7)]));
    }

    #[test]
    fn state_names_model_adapters_and_weights() {
        let (a, b) = (adapter(&["conv_in"], 1), adapter(&["conv_in"], 2));
        let model = Sha256Digest::of(b"model");
        let state = |adapters: &[(&Arc<Adapter>, f64)]| StateId::of(model, &set(adapters).uses());
        let states = [
            state(&[]),
            StateId::of(Sha256Digest::of(b"other"), &[]),
            state(&[(&a, 1.0)]),
            state(&[(&b, 1.0)]),
            state(&[(&a, 1.0 + f64::EPSILON)]),
            state(&[(&a, 1.0), (&b, 1.0)]),
        ];
        assert_eq!(states.iter().collect::<BTreeSet<_>>().len(), states.len());
        assert_eq!(states[5], state(&[(&b, 1.0), (&a, 1.0)]));
    }

    #[test]
    fn a_set_that_cannot_be_applied_changes_nothing() {
        let (good, wide) = (adapter(&["to_v"], 1), adapter(&["conv_in"], 2));
        let mut map = Map::new(Kind::Half);
        let mut fuser = Fuser::default();
        fuser.apply(&mut map, &set(&[(&good, 1.0)])).unwrap();
        let before = (map.bits(), fuser.adapters.clone());

        match fuser.apply(&mut map, &set(&[(&wide, 1e6)])) {
            Err(EngineError::Lora(LoraError::OutOfRange {
                module,
                kind: Kind::Half,
            })) => assert_eq!(module, "conv_in"),
            other => panic!("expected a weight out of range, got {other:?}"),
        }
        assert_eq!((map.bits(), fuser.adapters.clone()), before);

        map.pristine.remove("conv_in");
        match fuser.apply(&mut map, &set(&[(&wide, 1.0)])) {
            Err(EngineError::Lora(LoraError::NoSuchModule { module })) => {
                assert_eq!(module, "conv_in")
            }
            other => panic!("expected an unknown module, got {other:?}"),
        }
        assert_eq!(fuser.adapters, before.1);
    }

    #[test]
    fn a_failure_while_putting_in_place_falls_back_to_no_adapters() {
        let (a, b) = (
            adapter(&["to_v"], 1),
            adapter(&["conv_in", "to_v", "proj_in"], 2),
        );
        let mut map = Map::new(Kind::Float);
        let mut fuser = Fuser::default();
        let pristine = map.bits();
        fuser.apply(&mut map, &set(&[(&a, 1.0)])).unwrap();

        map.broken = Some("mid_block.attentions.0.proj_in".into());
        let failed = fuser.apply(&mut map, &set(&[(&b, 1.0)]));
        assert!(matches!(failed, Err(EngineError::OutOfMemory(_))));
        assert_eq!(
            (map.bits(), fuser.adapters()),
            (pristine.clone(), [].as_slice())
        );

        map.broken = None;
        fuser.apply(&mut map, &set(&[(&b, 1.0)])).unwrap();
        assert_ne!(map.bits(), pristine);
    }

    #[test]
    fn weights_that_could_not_be_put_back_are_not_taken_for_the_models_own() {
        let adapter = adapter(&["conv_in", "proj_in"], 1);
        let mut map = Map::new(Kind::Float);
        let mut fuser = Fuser::default();
        let pristine = map.bits();

        map.broken = Some("mid_block.attentions.0.proj_in".into());
        map.unrestorable = Some("conv_in".into());
        let failed = fuser.apply(&mut map, &set(&[(&adapter, 1.0)]));
        assert!(
            matches!(failed, Err(EngineError::OutOfMemory(_))),
            "the first failure is told: {failed:?}"
        );
        assert_ne!(map.bits(), pristine);
        assert!(matches!(fuser.require_known(), Err(LoraError::Mixed)));

        let still_failing = fuser.apply(&mut map, &set(&[]));
        assert!(matches!(still_failing, Err(EngineError::DeviceLost(_))));
        assert!(fuser.require_known().is_err());

        map.unrestorable = None;
        fuser.apply(&mut map, &set(&[])).unwrap();
        assert_eq!(map.bits(), pristine);
        assert!(fuser.require_known().is_ok());
    }

    #[test]
    fn sets_that_mean_nothing_are_refused() {
        let a = adapter(&["conv_in"], 1);
        let nan = AdapterSet::new(vec![(Arc::clone(&a), f64::NAN)]);
        assert!(matches!(nan, Err(LoraError::Weight { .. })));
        let twice = AdapterSet::new(vec![(Arc::clone(&a), 1.0), (a, 0.5)]);
        assert!(matches!(twice, Err(LoraError::Twice { .. })));
    }
}

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flowai_model::adapter::{Adapter, AdapterFormat, MagnitudeAxis, ModuleTable};
use flowai_model::synthetic::{self, AdapterSpec};
use flowai_model::{Preset, inventory};
use tch::{Device, Tensor};

use super::*;
use crate::error::{EngineError, Result};
use crate::params::{Precision, Pristine};

/// Weights in a map. Queries, keys and values of an attention are parts of one tensor, as where they are computed at once.
struct Map {
    kind: Kind,
    pristine: HashMap<String, Tensor>,
    values: HashMap<String, Tensor>,
    /// Writing to this module fails once.
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
        let pristine: HashMap<_, _> = inventory::unet(&Preset::Dummy.config().unet)
            .into_iter()
            .filter_map(tensor)
            .collect();
        let mut values: HashMap<_, _> = pristine
            .iter()
            .map(|(module, weight)| (module.clone(), weight.copy()))
            .collect();
        for attention in pristine
            .keys()
            .filter_map(|m| m.strip_suffix(".attn1.to_q"))
        {
            let names = ["to_q", "to_k", "to_v"].map(|part| format!("{attention}.attn1.{part}"));
            let stacked = Tensor::cat(&names.each_ref().map(|name| &pristine[name]), 0);
            for (name, part) in names.into_iter().zip(stacked.chunk(3, 0)) {
                values.insert(name, part);
            }
        }
        Self {
            kind,
            pristine,
            values,
            broken: None,
            unrestorable: None,
        }
    }

    /// The bytes of all weights that the model computes with, by module.
    fn bits(&self) -> BTreeMap<String, Vec<u8>> {
        let bytes = |(module, weight): (&String, &Tensor)| {
            let weight = weight.contiguous();
            let mut bytes = vec![0; weight.numel() * weight.kind().elt_size_in_bytes()];
            weight.copy_data_u8(&mut bytes, weight.numel());
            (module.clone(), bytes)
        };
        self.values.iter().map(bytes).collect()
    }

    /// Where they lie.
    fn addresses(&self) -> BTreeMap<String, usize> {
        let address =
            |(module, weight): (&String, &Tensor)| (module.clone(), weight.data_ptr() as usize);
        self.values.iter().map(address).collect()
    }
}

impl FusableWeights for Map {
    fn pristine(&self, module: &str) -> Result<Option<Pristine>> {
        let precision = Precision {
            device: Device::Cpu,
            kind: self.kind,
            rounded_to: None,
        };
        let stored = self.pristine.get(module).map(Tensor::shallow_clone);
        Ok(stored.map(|stored| Pristine::new(stored, precision)))
    }

    fn write(&mut self, module: &str, fill: impl FnOnce(&mut Tensor) -> Result<()>) -> Result<()> {
        if self.broken.take_if(|broken| broken == module).is_some() {
            // Of 4 EiB. tch panics instead of saying so.
            let one = Tensor::zeros([1], (Kind::Float, Device::Cpu));
            let _ = one.f_expand([1 << 60], false)?.f_sub_scalar(1.0)?;
        }
        fill(self.values.get_mut(module).unwrap())
    }

    fn restore(&mut self, module: &str) -> Result<()> {
        if self.unrestorable.as_deref() == Some(module) {
            return Err(EngineError::DeviceLost("gone".into()));
        }
        let pristine = &self.pristine[module];
        self.values.get_mut(module).unwrap().copy_(pristine);
        Ok(())
    }
}

fn spec(targets: &[&str], seed: u64) -> AdapterSpec {
    AdapterSpec {
        format: AdapterFormat::Kohya,
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        ranks: vec![2, 5],
        alphas: vec![3.0],
        use_rslora: false,
        seed,
    }
}

fn table() -> ModuleTable {
    ModuleTable::of(&Preset::Dummy.config().unet)
}

fn adapter(targets: &[&str], seed: u64) -> Arc<Adapter> {
    let bytes = synthetic::adapter_bytes(&table(), &spec(targets, seed)).unwrap();
    Arc::new(Adapter::read(bytes.into(), None, &table()).unwrap())
}

fn dora(targets: &[&str], seed: u64, axis: MagnitudeAxis) -> Arc<Adapter> {
    let bytes = synthetic::dora_bytes(&table(), &spec(targets, seed), axis).unwrap();
    Arc::new(Adapter::read(bytes.into(), None, &table()).unwrap())
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
    let fused = Vec::<f32>::try_from(map.values["conv_in"].reshape([-1])).unwrap();
    assert_eq!(map.values["conv_in"].size(), [32, 8, 3, 3]);
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
        let addresses = map.addresses();

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
        assert_eq!(map.addresses(), addresses, "{kind:?}");
    }
}

#[test]
fn the_order_of_a_jobs_adapters_changes_no_bit() {
    let (a, b) = (adapter(&["to_v"], 1), adapter(&["to_v"], 2));
    let bits = |adapters: &[(&Arc<Adapter>, f64)]| {
        let mut map = Map::new(Kind::BFloat16);
        let mut fuser = Fuser::default();
        fuser.apply(&mut map, &set(adapters)).unwrap();
        (map.bits(), fuser.adapters().to_vec())
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
    let before = (map.bits(), fuser.adapters().to_vec());

    match fuser.apply(&mut map, &set(&[(&wide, 1e6)])) {
        Err(EngineError::Lora(LoraError::OutOfRange {
            module,
            kind: Kind::Half,
        })) => assert_eq!(module, "conv_in"),
        other => panic!("expected a weight out of range, got {other:?}"),
    }
    assert_eq!((map.bits(), fuser.adapters().to_vec()), before);

    map.pristine.remove("conv_in");
    match fuser.apply(&mut map, &set(&[(&wide, 1.0)])) {
        Err(EngineError::Lora(LoraError::NoSuchModule { module })) => {
            assert_eq!(module, "conv_in")
        }
        other => panic!("expected an unknown module, got {other:?}"),
    }
    assert_eq!(fuser.adapters(), before.1);
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
    assert!(map.bits() == pristine && fuser.adapters().is_empty());

    assert_eq!(map.broken, None);
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

/// By hand in f64: the norm of each output or input of `W0 + s B A`, and the share that the weight lets through.
#[test]
fn a_dora_makes_rows_or_columns_as_long_as_its_magnitude() {
    const WEIGHT: f64 = 0.6;
    for axis in [MagnitudeAxis::Output, MagnitudeAxis::Input] {
        for module in ["conv_in", "mid_block.attentions.0.proj_in"] {
            let mut map = Map::new(Kind::Float);
            let (dora, plain) = (dora(&[module], 1, axis), adapter(&[module], 2));
            let both = set(&[(&dora, WEIGHT), (&plain, -0.8)]);
            Fuser::default().apply(&mut map, &both).unwrap();

            let in_f64 = |x: &Tensor| x.to_kind(Kind::Double);
            let product = |adapter: &Adapter| {
                let delta = &adapter.modules[0];
                let half = |view: &flowai_model::safetensors::TensorView| {
                    let rows = view.shape[0] as i64;
                    in_f64(&Tensor::from_slice(&view.to_f32()).view([rows, -1]))
                };
                half(&delta.up).matmul(&half(&delta.down)) * delta.scale
            };
            let pristine = in_f64(&map.pristine[module]);
            let changed = &pristine + product(&dora).view_as(&pristine);
            let kept = match axis {
                MagnitudeAxis::Output => 0,
                MagnitudeAxis::Input => 1,
            };
            let others: Vec<i64> = (0..changed.dim() as i64).filter(|d| *d != kept).collect();
            let norm = changed
                .square()
                .sum_dim_intlist(others, true, Kind::Double)
                .sqrt();
            let magnitude = &dora.modules[0].magnitude.as_ref().unwrap().values;
            let magnitude = in_f64(&Tensor::from_slice(&magnitude.to_f32())).view_as(&norm);
            let expected = &pristine
                + product(&plain).view_as(&pristine) * -0.8
                + (&changed * magnitude / norm - &pristine) * WEIGHT;
            let error = (in_f64(&map.values[module]) - expected).abs().max();
            let error = f64::try_from(error).unwrap();
            assert!(error < 1e-6, "{module} {axis:?}: {error}");
        }
    }
}

#[test]
fn two_doras_of_one_module_are_refused_by_name() {
    let a = dora(&["conv_in"], 1, MagnitudeAxis::Output);
    let b = dora(&["conv_in", "proj_in"], 2, MagnitudeAxis::Input);
    let both = AdapterSet::new(vec![(Arc::clone(&a), 1.0), (Arc::clone(&b), 1.0)]);
    match both {
        Err(LoraError::TwoDora { module, .. }) => assert_eq!(module, "conv_in"),
        other => panic!("expected two DoRAs, got {other:?}"),
    }
    let c = dora(&["proj_in"], 3, MagnitudeAxis::Output);
    assert!(AdapterSet::new(vec![(a, 1.0), (c, 1.0)]).is_ok());
}

/// A weight that is computed as it is written and one that is computed before are the same bits.
#[test]
fn a_change_that_might_leave_the_range_is_computed_beforehand_and_stays_when_it_does_not() {
    let adapter = adapter(&["conv_in"], 1);
    let change_max = adapter.modules[0].change_max;
    // Half of half a step at the end of the range of 16-bit floats.
    let weight = 1.001 * 8.0 / change_max;
    let fused = |weight: f64| {
        let mut map = Map::new(Kind::Half);
        let set = set(&[(&adapter, weight)]);
        Fuser::default().apply(&mut map, &set).unwrap();
        in_f32(&map.values["conv_in"])
    };
    let (written, computed) = (fused(weight * 0.998), fused(weight));
    let largest = f64::try_from(computed.abs().max()).unwrap();
    let difference = f64::try_from((written - computed).abs().max()).unwrap();
    assert!(difference < 0.01 * largest, "{difference} of {largest}");
}

fn in_f32(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Float)
}

#[test]
fn the_device_tier_keeps_what_was_used_last_and_changes_no_bit() {
    let adapters: Vec<_> = (1..=4)
        .map(|seed| adapter(&["to_q", "conv1"], seed))
        .collect();
    let bytes = adapters[0]
        .modules
        .iter()
        .map(factors::Factors::bytes)
        .sum::<u64>();
    let mut plain = (Map::new(Kind::Float), Fuser::default());
    let mut kept = (Map::new(Kind::Float), Fuser::default());
    kept.1.device_tier = Some(DeviceTier::new(Device::Cpu, 2 * bytes));

    for index in [0, 1, 0, 2, 0, 3, 1] {
        let set = set(&[(&adapters[index], 0.7)]);
        plain.1.apply(&mut plain.0, &set).unwrap();
        kept.1.apply(&mut kept.0, &set).unwrap();
        assert_eq!(plain.0.bits(), kept.0.bits());
        let tier = kept.1.device_tier().unwrap();
        assert!(tier.usage().bytes <= 2 * bytes);
        assert_eq!(tier.adapters()[0], adapters[index].sha256);
    }
    let tier = kept.1.device_tier().unwrap();
    let usage = tier.usage();
    assert_eq!((usage.hits, usage.misses, usage.evictions), (2, 5, 3));
    assert_eq!(tier.adapters(), [adapters[1].sha256, adapters[3].sha256]);

    // All of a set are there while it is applied, whatever the bound.
    kept.1.device_tier.as_mut().unwrap().limit(0);
    let all: Vec<_> = adapters.iter().map(|adapter| (adapter, 0.5)).collect();
    plain.1.apply(&mut plain.0, &set(&all)).unwrap();
    kept.1.apply(&mut kept.0, &set(&all)).unwrap();
    assert_eq!(plain.0.bits(), kept.0.bits());
    assert_eq!(kept.1.device_tier().unwrap().usage().bytes, 0);
}

/// Files of random adapters, and the cache.
struct Shelf {
    dir: tempfile::TempDir,
    cache: HostAdapters,
    model: Sha256Digest,
}

impl Shelf {
    fn new(bytes_max: u64) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            cache: HostAdapters::new(bytes_max, crate::DeviceName::Cpu),
            model: Sha256Digest::of(b"model"),
        }
    }

    fn file(&self, seed: u64) -> (Sha256Digest, std::path::PathBuf) {
        let bytes = synthetic::adapter_bytes(&table(), &spec(&["conv_in"], seed)).unwrap();
        let path = self.dir.path().join(format!("{seed}"));
        std::fs::write(&path, &bytes).unwrap();
        (Sha256Digest::of(&bytes), path)
    }

    fn hold(&self, file: &(Sha256Digest, std::path::PathBuf)) -> HostAdapter {
        self.cache.hold(self.model, file.0, &file.1, table).unwrap()
    }
}

#[test]
fn an_adapter_is_read_once_and_stays_while_it_is_held() {
    let bytes = synthetic::adapter_bytes(&table(), &spec(&["conv_in"], 1)).unwrap();
    let shelf = Shelf::new(2 * bytes.len() as u64);
    let files: Vec<_> = (1..=3).map(|seed| shelf.file(seed)).collect();
    let first = shelf.hold(&files[0]);
    drop(shelf.hold(&files[1]));
    // The file is not needed any more.
    std::fs::remove_file(&files[0].1).unwrap();
    assert!(Arc::ptr_eq(
        first.adapter(),
        shelf.hold(&files[0]).adapter()
    ));
    drop(shelf.hold(&files[1]));
    drop(shelf.hold(&files[2]));
    assert_eq!(shelf.cache.adapters(), [files[2].0, files[0].0]);
    drop(first);
    drop(shelf.hold(&files[1]));
    assert_eq!(shelf.cache.adapters(), [files[1].0, files[2].0]);
    let usage = shelf.cache.usage();
    assert_eq!((usage.hits, usage.misses, usage.evictions), (2, 4, 2));
}

#[test]
fn what_is_rotten_or_unfit_is_told_apart_and_not_kept() {
    let shelf = Shelf::new(1 << 20);
    let (sha256, path) = shelf.file(1);
    let hold = |sha256, table: fn() -> ModuleTable| {
        shelf
            .cache
            .hold(shelf.model, sha256, &path, table)
            .map(drop)
    };
    let other = Sha256Digest::of(b"another");
    assert!(matches!(hold(other, table), Err(NotRead::Rotten(_))));
    let wide = || ModuleTable::of(&Preset::Middle.config().unet);
    match hold(sha256, wide) {
        Err(NotRead::Unfit(error)) => assert!(error.to_string().contains("conv_in"), "{error}"),
        other => panic!("expected an adapter of another model, got {other:?}"),
    }
    assert!(shelf.cache.adapters().is_empty());
    assert!(hold(sha256, table).is_ok());
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(hold(other, table), Err(NotRead::Rotten(_))));
}

#[test]
fn threads_that_want_one_adapter_read_it_once() {
    const THREADS: usize = 8;
    let shelf = Shelf::new(1 << 20);
    let (sha256, path) = shelf.file(1);
    let asking = AtomicUsize::new(0);
    // Whoever reads first is not done before all others ask.
    let table = || {
        while asking.load(Ordering::Relaxed) < THREADS {
            std::thread::yield_now();
        }
        table()
    };
    let (shelf, asking) = (&shelf, &asking);
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                asking.fetch_add(1, Ordering::Relaxed);
                let held = shelf.cache.hold(shelf.model, sha256, &path, table);
                drop(held.unwrap());
            });
        }
    });
    let usage = shelf.cache.usage();
    assert_eq!((usage.hits, usage.misses), (7, 1));
}

//! Random adapters in files, and every bit of the weights that a UNet computes with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowai_model::adapter::{Adapter, AdapterFormat, MagnitudeAxis, ModuleTable};
use flowai_model::config::ModelConfig;
use flowai_model::synthetic::{self, AdapterSpec};
use flowai_svd::AdapterSet;
use flowai_svd::params::Params;

/// Ends of paths that together name every module of a UNet.
pub(crate) const EVERY_MODULE: [&str; 17] = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "net.0.proj",
    "net.2",
    "proj_in",
    "proj_out",
    "time_emb_proj",
    "linear_1",
    "linear_2",
    "conv_in",
    "conv_out",
    "conv",
    "conv1",
    "conv2",
    "conv_shortcut",
];

/// A LoRA of rank 4 at scale 1/2 in PEFT's format.
pub(crate) fn spec(targets: &[&str], seed: u64) -> AdapterSpec {
    AdapterSpec {
        format: AdapterFormat::Peft,
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        ranks: vec![4],
        alphas: vec![2.0],
        use_rslora: false,
        seed,
    }
}

/// A file of its own name; for a PEFT folder, a folder of its own.
pub(crate) fn write(dir: &Path, name: &str, config: &ModelConfig, spec: &AdapterSpec) -> PathBuf {
    let path = match spec.format {
        AdapterFormat::PeftFolder => {
            let folder = dir.join(name);
            std::fs::create_dir(&folder).unwrap();
            folder.join("adapter_model.safetensors")
        }
        _ => dir.join(format!("{name}.safetensors")),
    };
    synthetic::write_adapter(&path, &ModuleTable::of(&config.unet), spec).unwrap();
    path
}

/// The same with DoRA magnitudes.
pub(crate) fn write_dora(
    dir: &Path,
    name: &str,
    config: &ModelConfig,
    spec: &AdapterSpec,
    axis: MagnitudeAxis,
) -> PathBuf {
    let path = dir.join(format!("{name}.safetensors"));
    let bytes = synthetic::dora_bytes(&ModuleTable::of(&config.unet), spec, axis).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

pub(crate) fn open(path: &Path, config: &ModelConfig) -> Arc<Adapter> {
    Arc::new(Adapter::open(path, &ModuleTable::of(&config.unet)).unwrap())
}

pub(crate) fn set(adapters: &[(&Arc<Adapter>, f64)]) -> AdapterSet {
    let adapters = adapters.iter().map(|(a, weight)| (Arc::clone(a), *weight));
    AdapterSet::new(adapters.collect()).unwrap()
}

/// What a component's modules compute with, by the name of each parameter.
pub(crate) fn bits(params: &Params) -> BTreeMap<String, Vec<u8>> {
    let bytes = |name: &str| {
        let value = params.root().get(name).unwrap().contiguous();
        let mut bytes = vec![0; value.numel() * value.kind().elt_size_in_bytes()];
        value.copy_data_u8(&mut bytes, value.numel());
        (name.to_owned(), bytes)
    };
    params.names().map(bytes).collect()
}

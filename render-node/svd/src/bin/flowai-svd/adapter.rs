use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use flowai_model::adapter::Adapter;
use flowai_svd::AdapterSet;
use serde::Serialize;

/// `FILE=WEIGHT`: an adapter file and how strongly it is applied.
#[derive(Clone, Debug)]
pub(crate) struct AdapterArgument {
    file: PathBuf,
    weight: f64,
}

impl FromStr for AdapterArgument {
    type Err = &'static str;

    /// The weight follows the last `=`, so the file's name may hold others.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (file, weight) = text
            .rsplit_once('=')
            .ok_or("must be FILE=WEIGHT, as in style.safetensors=0.8")?;
        let weight = weight.parse::<f64>().ok().filter(|w| w.is_finite());
        let weight = weight.ok_or("the weight after the last = must be a finite number")?;
        let file = PathBuf::from(file);
        Ok(Self { file, weight })
    }
}

/// What an adapter of a run is, for the line of measurements.
#[derive(Serialize)]
pub(crate) struct Applied {
    sha256: String,
    weight: f64,
    /// Modules that it changes.
    modules: usize,
    /// Modules that it names and that change nothing: queries and keys of cross-attention.
    noop_modules: usize,
}

/// Reads adapters, in whatever order they are named. Each is checked whole before any is applied.
pub(crate) fn read_all(
    arguments: &[AdapterArgument],
    read: impl Fn(&Path) -> flowai_svd::Result<Adapter>,
) -> Result<(AdapterSet, Vec<Applied>)> {
    let mut adapters = Vec::new();
    for AdapterArgument { file, weight } in arguments {
        let adapter = read(file).with_context(|| format!("--adapter {}", file.display()))?;
        adapters.push((Arc::new(adapter), *weight));
    }
    let applied = adapters.iter().map(|(adapter, weight)| Applied {
        sha256: adapter.sha256.to_string(),
        weight: *weight,
        modules: adapter.report.modules,
        noop_modules: adapter.report.noop_modules,
    });
    let applied = applied.collect();
    Ok((AdapterSet::new(adapters).context("--adapter")?, applied))
}

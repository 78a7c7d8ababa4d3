use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use flowai_model::config::ModelConfig;
use flowai_svd::{DeviceName, Dtype, Fields, LoadOptions, Spec, SpecError};
use serde_json::{Map, Value};

/// More threads than any machine has cores are a mistake.
const THREADS_MAX: usize = 1024;

/// SPEC.json: the job's fields, and `dtype`, `device` and `threads` for the engine.
pub(crate) struct SpecFile {
    pub(crate) options: LoadOptions,
    pub(crate) job: Map<String, Value>,
}

impl SpecFile {
    /// Errors: not a JSON object, or an engine field that is not one; the job's fields are read later.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("spec {}", path.display()))?;
        let json: Map<String, Value> = serde_json::from_slice(&text)
            .with_context(|| format!("spec {}: cannot be read as a JSON object", path.display()))?;
        let mut fields = Fields::new(&json);
        let dtype = fields.take::<Dtype>("dtype")?.unwrap_or(Dtype::Fp32);
        let device = fields.take::<String>("device")?;
        let device = device.as_deref().unwrap_or("cpu").parse::<DeviceName>();
        let threads = fields.take::<usize>("threads")?;
        if let Some(threads) = threads
            && !(1..=THREADS_MAX).contains(&threads)
        {
            let reason = format!("must be 1..={THREADS_MAX} (got {threads})");
            let field = "threads".to_owned();
            return Err(SpecError { field, reason }.into());
        }
        Ok(Self {
            options: LoadOptions {
                dtype,
                device: device.context("spec")?,
                threads,
                identity: None,
            },
            job: fields.rest(),
        })
    }

    /// The job, with what the file leaves open taken from the model.
    pub(crate) fn job(&self, model: &ModelConfig) -> Result<Spec, SpecError> {
        Spec::from_json(&self.job, model)
    }
}

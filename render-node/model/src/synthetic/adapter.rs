use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::tensor;
use crate::adapter::{AdapterFormat, MagnitudeAxis, Module, ModuleTable, TEXT_ENCODER_PREFIX};
use crate::safetensors::Dtype;

/// A random LoRA: a pure function of these fields and the model's modules.
#[derive(Debug, Clone)]
pub struct AdapterSpec {
    pub format: AdapterFormat,
    /// Ends of module paths, as PEFT's `target_modules`: `to_q` is every module whose path is `to_q` or ends with `.to_q`.
    pub targets: Vec<String>,
    /// Ranks, taken in turn by the modules in their order in the table.
    pub ranks: Vec<usize>,
    /// Alphas, taken in turn likewise. Empty: the file says none, and every scale is 1.
    pub alphas: Vec<f64>,
    /// alpha / sqrt(rank) instead of alpha / rank. Only the PEFT formats can say so.
    pub use_rslora: bool,
    pub seed: u64,
}

/// Why an adapter was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteAdapterError {
    #[error("{}: cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot be serialised: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
    #[error("targets {0:?} name no module of the model")]
    NoModules(Vec<String>),
    #[error("ranks must be at least one number, all over 0 (got {0:?})")]
    Ranks(Vec<usize>),
    #[error("use_rslora can only be said in a PEFT format with alphas")]
    Rslora,
    #[error("{0:?} cannot say a magnitude of {1:?}: take Kohya, or Peft for outputs")]
    Magnitude(AdapterFormat, MagnitudeAxis),
}

/// Names that the formats give to the two halves and to alpha, after the module's path.
struct Names {
    prefix: &'static str,
    down: &'static str,
    up: &'static str,
    alpha: Option<&'static str>,
}

/// Writes an adapter file; for [`AdapterFormat::PeftFolder`] also the `adapter_config.json` beside it.
pub fn write_adapter(
    path: &Path,
    table: &ModuleTable,
    spec: &AdapterSpec,
) -> Result<(), WriteAdapterError> {
    let bytes = adapter_bytes(table, spec)?;
    let write = |path: PathBuf, bytes: &[u8]| match fs::write(&path, bytes) {
        Ok(()) => Ok(()),
        Err(source) => Err(WriteAdapterError::Write { path, source }),
    };
    if spec.format == AdapterFormat::PeftFolder {
        let config = settings(&select(table, spec)?, spec).to_string();
        write(
            path.with_file_name("adapter_config.json"),
            config.as_bytes(),
        )?;
    }
    write(path.to_owned(), &bytes)
}

/// The bytes of an adapter file, in F32.
///
/// Module `m` has halves [`tensor`]`("adapter.m.down", ..)` and [`tensor`]`("adapter.m.up", ..)`: the same numbers in every
/// format, and at scale 1 a change about as large as the weight of a random model.
pub fn adapter_bytes(
    table: &ModuleTable,
    spec: &AdapterSpec,
) -> Result<Vec<u8>, WriteAdapterError> {
    serialise(table, spec, None)
}

/// The bytes of a DoRA file: [`adapter_bytes`] with magnitudes about 1, as long as the rows of a random model's weights.
///
/// Module `m` has the magnitude [`tensor`]`("adapter.m.magnitude.weight", ..)`.
pub fn dora_bytes(
    table: &ModuleTable,
    spec: &AdapterSpec,
    axis: MagnitudeAxis,
) -> Result<Vec<u8>, WriteAdapterError> {
    match (spec.format, axis) {
        (AdapterFormat::Peft, MagnitudeAxis::Output) | (AdapterFormat::Kohya, _) => {
            serialise(table, spec, Some(axis))
        }
        (format, axis) => Err(WriteAdapterError::Magnitude(format, axis)),
    }
}

fn serialise(
    table: &ModuleTable,
    spec: &AdapterSpec,
    magnitude: Option<MagnitudeAxis>,
) -> Result<Vec<u8>, WriteAdapterError> {
    let modules = select(table, spec)?;
    let peft = matches!(spec.format, AdapterFormat::Peft | AdapterFormat::PeftFolder);
    let says_settings = peft && !spec.alphas.is_empty();
    if spec.use_rslora && !says_settings {
        return Err(WriteAdapterError::Rslora);
    }

    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (i, module) in modules.iter().enumerate() {
        let rank = rank(spec, i);
        let names = names(spec.format, &module.path);
        let path = key_path(spec.format, &module.path);
        let (down, up) = half_shapes(module, rank);
        for (end, half, shape) in [(names.down, "down", down), (names.up, "up", up)] {
            let values = tensor(
                &format!("adapter.{}.{half}", module.path),
                &shape,
                spec.seed,
            );
            tensors.insert(
                format!("{}{path}{end}", names.prefix),
                (shape, Dtype::F32.to_bytes(&values)),
            );
        }
        if let Some(axis) = magnitude {
            let shape = magnitude_shape(spec.format, module, axis);
            let name = format!("adapter.{}.magnitude.weight", module.path);
            let values = tensor(&name, &[shape.iter().product()], spec.seed);
            let end = match spec.format {
                AdapterFormat::Kohya => ".dora_scale",
                _ => ".lora_magnitude_vector",
            };
            let key = format!("{}{path}{end}", names.prefix);
            tensors.insert(key, (shape, Dtype::F32.to_bytes(&values)));
        }
        if let (Some(end), Some(alpha)) = (names.alpha, alpha(spec, i)) {
            let key = format!("{}{path}{end}", names.prefix);
            tensors.insert(key, (vec![], Dtype::F32.to_bytes(&[alpha as f32])));
        }
    }
    // One key only: the serialiser writes several in a random order.
    let metadata = (spec.format == AdapterFormat::Peft && !spec.alphas.is_empty()).then(|| {
        let mut settings = settings(&modules, spec);
        settings["use_dora"] = json!(magnitude.is_some());
        HashMap::from([("lora_adapter_metadata".to_owned(), settings.to_string())])
    });
    let views = tensors
        .iter()
        .map(|(key, (shape, data))| {
            Ok((
                key,
                TensorView::new(safetensors::Dtype::F32, shape.clone(), data)?,
            ))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize(views, metadata)?)
}

fn select<'t>(
    table: &'t ModuleTable,
    spec: &AdapterSpec,
) -> Result<Vec<&'t Module>, WriteAdapterError> {
    if spec.ranks.is_empty() || spec.ranks.contains(&0) {
        return Err(WriteAdapterError::Ranks(spec.ranks.clone()));
    }
    let targeted = |module: &&Module| {
        let ends = |target: &String| module.path.strip_suffix(target.as_str());
        spec.targets
            .iter()
            .filter_map(ends)
            .any(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let modules: Vec<&Module> = table.modules().iter().filter(targeted).collect();
    if modules.is_empty() {
        Err(WriteAdapterError::NoModules(spec.targets.clone()))
    } else {
        Ok(modules)
    }
}

fn rank(spec: &AdapterSpec, i: usize) -> usize {
    spec.ranks[i % spec.ranks.len()]
}

fn alpha(spec: &AdapterSpec, i: usize) -> Option<f64> {
    (!spec.alphas.is_empty()).then(|| spec.alphas[i % spec.alphas.len()])
}

/// Shapes of the halves as PEFT makes them: the kernel is in the first, the second is pointwise.
fn half_shapes(module: &Module, rank: usize) -> (Vec<usize>, Vec<usize>) {
    let (out, rest) = (module.weight_shape[0], &module.weight_shape[1..]);
    let down = [&[rank], rest].concat();
    let up = [&[out, rank][..], &vec![1; rest.len() - 1]].concat();
    (down, up)
}

/// As each writer shapes its magnitudes: PEFT (out) or (1, out, 1..), LyCORIS (out, 1..) or (1, in, 1..).
fn magnitude_shape(format: AdapterFormat, module: &Module, axis: MagnitudeAxis) -> Vec<usize> {
    let (out, input) = (module.weight_shape[0], module.weight_shape[1]);
    let ones = vec![1; module.weight_shape.len() - 2];
    match (format, axis) {
        (AdapterFormat::Kohya, MagnitudeAxis::Output) => [&[out, 1], ones.as_slice()].concat(),
        (_, MagnitudeAxis::Input) => [&[1, input], ones.as_slice()].concat(),
        (_, MagnitudeAxis::Output) if ones.is_empty() => vec![out],
        (_, MagnitudeAxis::Output) => [&[1, out], ones.as_slice()].concat(),
    }
}

fn key_path(format: AdapterFormat, path: &str) -> String {
    match format {
        AdapterFormat::Peft | AdapterFormat::PeftFolder => path.to_owned(),
        AdapterFormat::Kohya => {
            let path = path.strip_prefix(TEXT_ENCODER_PREFIX).unwrap_or(path);
            path.replace('.', "_")
        }
        AdapterFormat::DiffusersOld => match attention_projection(path) {
            Some((attention, projection)) => format!("{attention}.processor.{projection}"),
            None => path.to_owned(),
        },
    }
}

/// Splits the path of a projection as old attention processors named it.
fn attention_projection(path: &str) -> Option<(&str, &str)> {
    let path = path
        .strip_suffix(".0")
        .filter(|path| path.ends_with(".to_out"))
        .unwrap_or(path);
    path.rsplit_once('.')
        .filter(|(_, name)| ["to_q", "to_k", "to_v", "to_out"].contains(name))
}

fn names(format: AdapterFormat, path: &str) -> Names {
    let names = unet_names(format, path);
    if !path.starts_with(TEXT_ENCODER_PREFIX) {
        return names;
    }
    match format {
        // The component's name is part of the path.
        AdapterFormat::Peft | AdapterFormat::PeftFolder => Names {
            prefix: names.prefix.trim_end_matches("unet."),
            ..names
        },
        AdapterFormat::DiffusersOld => Names {
            prefix: "",
            down: ".lora_linear_layer.down.weight",
            up: ".lora_linear_layer.up.weight",
            alpha: Some(".lora_linear_layer.alpha"),
        },
        AdapterFormat::Kohya => Names {
            prefix: "lora_te_",
            ..names
        },
    }
}

fn unet_names(format: AdapterFormat, path: &str) -> Names {
    match format {
        AdapterFormat::Peft => Names {
            prefix: "unet.",
            down: ".lora_A.weight",
            up: ".lora_B.weight",
            alpha: None,
        },
        AdapterFormat::PeftFolder => Names {
            prefix: "base_model.model.",
            down: ".lora_A.weight",
            up: ".lora_B.weight",
            alpha: None,
        },
        AdapterFormat::DiffusersOld if attention_projection(path).is_some() => Names {
            prefix: "unet.",
            down: "_lora.down.weight",
            up: "_lora.up.weight",
            alpha: Some("_lora.alpha"),
        },
        AdapterFormat::DiffusersOld => Names {
            prefix: "unet.",
            down: ".lora.down.weight",
            up: ".lora.up.weight",
            alpha: Some(".lora.alpha"),
        },
        AdapterFormat::Kohya => Names {
            prefix: "lora_unet_",
            down: ".lora_down.weight",
            up: ".lora_up.weight",
            alpha: Some(".alpha"),
        },
    }
}

/// A `LoraConfig` with the patterns that say each module's rank and alpha. Without alphas it says alpha = rank.
fn settings(modules: &[&Module], spec: &AdapterSpec) -> Value {
    let ranks = modules
        .iter()
        .enumerate()
        .map(|(i, module)| (module.path.clone(), json!(rank(spec, i))))
        .collect();
    let alphas = modules
        .iter()
        .enumerate()
        .map(|(i, module)| {
            (
                module.path.clone(),
                json!(alpha(spec, i).unwrap_or(rank(spec, i) as f64)),
            )
        })
        .collect();
    json!({
        "peft_type": "LORA",
        "r": rank(spec, 0),
        "lora_alpha": alpha(spec, 0).unwrap_or(rank(spec, 0) as f64),
        "rank_pattern": Value::Object(ranks),
        "alpha_pattern": Value::Object(alphas),
        "use_rslora": spec.use_rslora,
        "target_modules": spec.targets,
    })
}

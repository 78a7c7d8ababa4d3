//! The training settings that decide how strong an adapter is, where they are not in the tensors.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::{AdapterError, TEXT_ENCODER_PREFIX};

/// Under which key diffusers stores the settings in a file's metadata.
pub(super) const METADATA_KEY: &str = "lora_adapter_metadata";
/// Prefix of each setting of a UNet when a pipeline saved the file; a text encoder's is its paths' own.
const UNET_PREFIX: &str = "unet.";
/// PEFT's default of `lora_alpha`.
const DEFAULT_ALPHA: f64 = 8.0;
pub(super) const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// One for each module of the largest model, and some.
const PATTERNS_MAX: usize = 2_000;
/// Of these, how many may be more than a path: each is tried with each module.
const EXPRESSIONS_MAX: usize = 64;
/// Compiled size of one pattern: a path needs a tenth, and a user's repetitions must not take gigabytes.
const PATTERN_BYTES_MAX: usize = 32 << 10;

/// Settings that turn a LoRA into another function when true or given. Whoever ignores them renders something else.
const VARIANTS: [&str; 8] = [
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "alora_invocation_tokens",
];

/// Initialisations that also change the base weights, so that the file alone is not the adapter.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// A `LoraConfig` of PEFT, as far as it matters here.
#[derive(Debug)]
pub(super) struct Settings {
    lora_alpha: f64,
    /// Alpha of the modules whose path matches, first match first; in order of the patterns' text, as PEFT saves them.
    alpha_pattern: Vec<(Pattern, f64)>,
    use_rslora: bool,
    /// Whether every changed module has a magnitude, where it is said.
    pub(super) use_dora: Option<bool>,
}

/// The settings of one file. A pipeline writes those of its UNet and of its text encoder one beside the other.
#[derive(Debug)]
pub(super) struct FileSettings {
    unet: Option<Settings>,
    text_encoder: Option<Settings>,
}

impl FileSettings {
    /// Reads the settings from a file's metadata or else from an `adapter_config.json`.
    pub(super) fn read(
        metadata: &BTreeMap<String, String>,
        peft_config: Option<&str>,
    ) -> Result<Self, AdapterError> {
        let read = |prefix| Settings::read(metadata, peft_config, prefix);
        Ok(Self {
            unet: read(UNET_PREFIX)?,
            text_encoder: read(TEXT_ENCODER_PREFIX)?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unet.is_none() && self.text_encoder.is_none()
    }

    /// What is said of the module at `path`.
    pub(super) fn of(&self, path: &str) -> Option<&Settings> {
        match path.starts_with(TEXT_ENCODER_PREFIX) {
            true => self.text_encoder.as_ref(),
            false => self.unet.as_ref(),
        }
    }
}

impl Settings {
    /// Of the component that `prefix` names. `None` when there are none.
    fn read(
        metadata: &BTreeMap<String, String>,
        peft_config: Option<&str>,
        prefix: &str,
    ) -> Result<Option<Self>, AdapterError> {
        let (source, text) = match (metadata.get(METADATA_KEY), peft_config) {
            (Some(text), _) => (METADATA_KEY, text.as_str()),
            (None, Some(text)) => ("adapter_config.json", text),
            (None, None) => return Ok(None),
        };
        let json: Value = serde_json::from_str(text)
            .map_err(|error| AdapterError::settings(source, format!("is not JSON: {error}")))?;
        let object = json
            .as_object()
            .ok_or_else(|| AdapterError::settings(source, "must be a JSON object"))?;
        // A pipeline's file may hold settings of the other component alone.
        let field = |name: &str| field(object, prefix, name);
        if field("r").is_none() && field("lora_alpha").is_none() {
            return Ok(None);
        }

        for name in VARIANTS {
            if let Some(value) = field(name)
                && *value != Value::Bool(false)
            {
                return Err(AdapterError::settings(
                    name,
                    "is not implemented: the adapter is no plain LoRA",
                ));
            }
        }
        if let Some(init) = field("init_lora_weights").and_then(Value::as_str)
            && CHANGES_BASE
                .iter()
                .any(|name| init.to_lowercase().starts_with(name))
        {
            let reason = format!(
                "{init:?} also changes the base weights: convert the adapter to a plain LoRA"
            );
            return Err(AdapterError::settings("init_lora_weights", reason));
        }
        let flag = |name: &str| {
            let refuse = || AdapterError::settings(name, "must be true or false");
            field(name)
                .map(|value| value.as_bool().ok_or_else(refuse))
                .transpose()
        };
        let use_rslora = flag("use_rslora")?.unwrap_or(false);
        let use_dora = flag("use_dora")?;
        let lora_alpha =
            field("lora_alpha").map_or(Ok(DEFAULT_ALPHA), |value| number("lora_alpha", value))?;
        let alpha_pattern = field("alpha_pattern").map_or(Ok(Vec::new()), patterns)?;
        Ok(Some(Self {
            lora_alpha,
            alpha_pattern,
            use_rslora,
            use_dora,
        }))
    }

    /// What the product of a module's halves is multiplied by. `alpha` is the file's own for the module, if it has one.
    pub(super) fn scale(&self, path: &str, rank: usize, alpha: Option<f64>) -> f64 {
        let pattern = || {
            self.alpha_pattern
                .iter()
                .find(|(pattern, _)| pattern.is_match(path))
                .map(|(_, alpha)| *alpha)
        };
        let alpha = alpha.or_else(pattern).unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

fn field<'a>(object: &'a Map<String, Value>, prefix: &str, name: &str) -> Option<&'a Value> {
    object
        .get(name)
        .or_else(|| object.get(&format!("{prefix}{name}")))
        .filter(|value| !value.is_null())
}

fn number(name: &str, value: &Value) -> Result<f64, AdapterError> {
    let refuse = || AdapterError::settings(name, "must be a finite number");
    value
        .as_f64()
        .filter(|number| number.is_finite())
        .ok_or_else(refuse)
}

/// A regular expression that must match a module's path, or its end after a dot.
#[derive(Debug)]
enum Pattern {
    /// One without a mark but the dot, which stands for any character.
    Path(String),
    Expression(Regex),
}

impl Pattern {
    fn is_match(&self, path: &str) -> bool {
        let pattern = match self {
            Self::Expression(regex) => return regex.is_match(path),
            Self::Path(pattern) => pattern.as_bytes(),
        };
        let Some((before, end)) = path
            .len()
            .checked_sub(pattern.len())
            .and_then(|start| path.as_bytes().split_at_checked(start))
        else {
            return false;
        };
        let same = |(pattern, found): (&u8, &u8)| *pattern == b'.' || pattern == found;
        matches!(before.last(), None | Some(b'.')) && pattern.iter().zip(end).all(same)
    }
}

/// `alpha_pattern`, in order of the patterns' text.
fn patterns(value: &Value) -> Result<Vec<(Pattern, f64)>, AdapterError> {
    let refuse = |reason: String| AdapterError::settings("alpha_pattern", reason);
    let object = value
        .as_object()
        .ok_or_else(|| refuse("must be an object".to_owned()))?;
    if object.len() > PATTERNS_MAX {
        return Err(refuse(format!(
            "has {} patterns; the limit is {PATTERNS_MAX}",
            object.len()
        )));
    }
    let is_path = |text: &&String| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        text.bytes().all(plain)
    };
    let expressions = object.len() - object.keys().filter(is_path).count();
    if expressions > EXPRESSIONS_MAX {
        return Err(refuse(format!(
            "has {expressions} patterns that are more than a path; the limit is {EXPRESSIONS_MAX}"
        )));
    }
    object
        .iter()
        .map(|(text, alpha)| {
            let pattern = match is_path(&text) {
                true => Pattern::Path(text.clone()),
                false => Pattern::Expression(expression(text).ok_or_else(|| {
                    let start: String = text.chars().take(80).collect();
                    refuse(format!(
                        "{start:?} is no regular expression, or too large a one"
                    ))
                })?),
            };
            Ok((pattern, number("alpha_pattern", alpha)?))
        })
        .collect()
}

fn expression(text: &str) -> Option<Regex> {
    RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{text})$"))
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .ok()
}

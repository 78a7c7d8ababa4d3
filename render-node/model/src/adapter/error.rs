use std::fmt;

use super::Family;
use super::settings::METADATA_KEY;
use crate::gate::GateError;

/// Problems that an error text spells out before it only counts them.
const PROBLEMS_SHOWN: usize = 32;

/// Why a file is no adapter for the model.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("adapter file {0}")]
    Gate(#[from] GateError),
    #[error("adapter settings: {field}: {reason}")]
    Settings { field: String, reason: String },
    // The hint first: whoever cuts a long text keeps it.
    #[error("adapter does not fit the model{}: {problems}", hint(*family))]
    DoesNotFit {
        problems: AdapterProblems,
        family: Option<Family>,
    },
}

impl AdapterError {
    pub(super) fn settings(field: &str, reason: impl Into<String>) -> Self {
        Self::Settings {
            field: field.to_owned(),
            reason: reason.into(),
        }
    }
}

/// What a file of another family is good for.
fn hint(family: Option<Family>) -> &'static str {
    match family {
        Some(Family::StableDiffusion) => {
            " (its keys are those of a Stable Diffusion 1.x adapter: it fits the keyframe model, not the video model)"
        }
        Some(Family::StableDiffusionXl) => " (its keys are those of a Stable Diffusion XL adapter)",
        Some(Family::AnimateDiff) => {
            " (its keys are those of an AnimateDiff motion adapter, made for SD 1.5)"
        }
        Some(Family::StableVideoDiffusion) => {
            " (its keys are those of a Stable Video Diffusion adapter: it fits the video model, not the keyframe model)"
        }
        None => "",
    }
}

/// Everything that is wrong with a file. The text names the first 32 and counts the rest.
#[derive(Debug, PartialEq, Eq)]
pub struct AdapterProblems(pub Vec<AdapterProblem>);

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterProblem {
    #[error("key {key:?} names no module of the model")]
    UnknownKey { key: String },
    #[error("key {key:?} is {scheme}, which is not implemented")]
    Unimplemented { key: String, scheme: Scheme },
    #[error("key {key:?} has shape {found:?}, must have {expected}")]
    Shape {
        key: String,
        found: Vec<usize>,
        expected: String,
    },
    #[error("key {key:?} has no partner: a module needs both its low-rank halves")]
    OtherHalfMissing { key: String },
    #[error("keys {first:?} and {second:?} are the same part of one module")]
    SamePart { first: String, second: String },
    #[error(
        "module {module} has {} DoRA magnitude, but the file's settings say use_dora {says}",
        if *says { "no" } else { "a" }
    )]
    DoraDisagrees { module: String, says: bool },
    #[error(
        "keys begin with \"base_model.model.\", so alpha is in {}, which is not here: save the file again with that \
         config's text in its metadata, as {METADATA_KEY}",
        super::PEFT_CONFIG_FILE
    )]
    AlphaUnknown,
}

/// Ways to change a module that are not a plain LoRA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Loha,
    Lokr,
    Tucker,
    FullDifference,
    LoraBias,
    AnimateDiff,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loha => "a LoHa factor",
            Self::Lokr => "a LoKr factor",
            Self::Tucker => "a Tucker core (lora_mid)",
            Self::FullDifference => "a full difference of weights (.diff)",
            Self::LoraBias => "a LoRA bias",
            Self::AnimateDiff => "an AnimateDiff motion module",
        })
    }
}

impl fmt::Display for AdapterProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().take(PROBLEMS_SHOWN).enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(PROBLEMS_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

use std::collections::HashMap;
use std::fmt::Write as _;

use super::{AdapterProblem, Family};
use crate::Sha256Digest;
use crate::config::UnetConfig;
use crate::config::stable_diffusion::{TextEncoderConfig, Unet2dConfig};
use crate::inventory::{self, TensorSpec};
use crate::safetensors::TensorView;

/// A layer with a weight matrix or kernel, which an adapter can change.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// As in `down_blocks.0.resnets.0.spatial_res_block.conv1`.
    pub path: String,
    /// (out, in) or (out, in, kernel..).
    pub weight_shape: Vec<usize>,
}

/// What the paths of a text encoder's modules begin with; those of a UNet begin with nothing.
pub const TEXT_ENCODER_PREFIX: &str = "text_encoder.";

/// What published files and trainers put between that and the rest; transformers 5 does not.
const TEXT_MODEL_PREFIX: &str = "text_model.";

/// All modules of a model that an adapter can change, by path and by path with `_` for `.`.
#[derive(Debug)]
pub struct ModuleTable {
    family: Family,
    modules: Vec<Module>,
    by_path: HashMap<String, usize>,
    by_joined_path: HashMap<String, usize>,
}

impl ModuleTable {
    pub fn of(config: &UnetConfig) -> Self {
        Self::of_family(Family::StableVideoDiffusion, inventory::unet(config))
    }

    /// The modules of a keyframe model's UNet, and of its text encoder but for the embeddings.
    pub fn of_stable_diffusion(unet: &Unet2dConfig, text_encoder: &TextEncoderConfig) -> Self {
        let text = inventory::stable_diffusion::text_encoder(text_encoder);
        let text = text.into_iter().filter_map(|tensor| {
            let is_embedding = tensor.name.contains("embedding.");
            (!is_embedding).then(|| TensorSpec {
                name: format!("{TEXT_ENCODER_PREFIX}{}", tensor.name),
                ..tensor
            })
        });
        let mut tensors = inventory::stable_diffusion::unet(unet);
        tensors.extend(text);
        Self::of_family(Family::StableDiffusion, tensors)
    }

    fn of_family(family: Family, tensors: Vec<TensorSpec>) -> Self {
        let modules: Vec<Module> = tensors
            .into_iter()
            // Norms have one dimension, mix factors no `.weight`: neither has a low-rank change.
            .filter(|tensor| tensor.shape.len() >= 2)
            .filter_map(|tensor| {
                let path = tensor.name.strip_suffix(".weight")?.to_owned();
                Some(Module {
                    path,
                    weight_shape: tensor.shape,
                })
            })
            .collect();
        let index = |name: fn(&str) -> String| {
            modules
                .iter()
                .enumerate()
                .map(|(i, m)| (name(&m.path), i))
                .collect()
        };
        let by_path = index(str::to_owned);
        let by_joined_path = index(|path| path.replace('.', "_"));
        Self {
            family,
            modules,
            by_path,
            by_joined_path,
        }
    }

    /// Of the modules and their shapes: models of equal ones take the same adapters, whatever else their configs say.
    pub fn sha256(&self) -> Sha256Digest {
        let mut text = format!("{:?}", self.family);
        for Module { path, weight_shape } in &self.modules {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{path} {weight_shape:?}");
        }
        Sha256Digest::of(text.as_bytes())
    }

    /// Whose adapters fit.
    pub fn family(&self) -> Family {
        self.family
    }

    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Whether a change of the module changes nothing: queries and keys of cross-attention to the one key of Stable Video
    /// Diffusion, whose softmax is 1 whatever query and key are (measured difference: 0.0).
    pub(super) fn is_noop(&self, module: &str) -> bool {
        let has_one_key = self.family == Family::StableVideoDiffusion;
        has_one_key && (module.ends_with(".attn2.to_q") || module.ends_with(".attn2.to_k"))
    }

    /// The module that an adapter's key names.
    pub(super) fn find(&self, path: &KeyPath<'_>) -> Option<&Module> {
        let index = match path {
            KeyPath::Dotted(path) => self.by_path.get(path.as_ref()).or_else(|| {
                let rest = path.strip_prefix(TEXT_ENCODER_PREFIX)?;
                let path = format!("{TEXT_ENCODER_PREFIX}{TEXT_MODEL_PREFIX}{rest}");
                self.by_path.get(&path)
            }),
            KeyPath::Joined(path) => self.by_joined_path.get(*path),
            KeyPath::JoinedText(path) => {
                let prefix = TEXT_ENCODER_PREFIX.replace('.', "_");
                self.by_joined_path.get(&format!("{prefix}{path}"))
            }
        };
        index.map(|&i| &self.modules[i])
    }
}

/// A module's path as a key writes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyPath<'a> {
    Dotted(std::borrow::Cow<'a, str>),
    /// With `_` for `.`. Only the table can tell which underscores were dots.
    Joined(&'a str),
    /// The same of a text encoder.
    JoinedText(&'a str),
}

impl Module {
    /// Checks a pair of halves, each with its key, against the weight. Returns the rank if both fit.
    pub(super) fn check_shapes(
        &self,
        (down_key, down): &(String, TensorView),
        (up_key, up): &(String, TensorView),
        problems: &mut Vec<AdapterProblem>,
    ) -> Option<usize> {
        let (out, rest) = self.weight_shape.split_first()?;
        let known = |sizes: &[usize]| sizes.iter().copied().map(Some).collect::<Vec<_>>();
        let mut check = |key: &String, found: &TensorView, expected: &[Option<usize>]| {
            let fits = fits(&found.shape, expected);
            if !fits {
                problems.push(AdapterProblem::Shape {
                    key: key.clone(),
                    found: found.shape.clone(),
                    expected: format!(
                        "[{}] to change a weight of {:?}",
                        list(expected),
                        self.weight_shape
                    ),
                });
            }
            fits
        };
        let down_expected = [&[None], known(rest).as_slice()].concat();
        // A half that does not fit says nothing of the other.
        let rank = check(down_key, down, &down_expected).then(|| down.shape[0]);
        let ones = vec![1; rest.len() - 1];
        let up_expected = [&[Some(*out), rank], known(&ones).as_slice()].concat();
        let up_fits = check(up_key, up, &up_expected);
        rank.filter(|_| up_fits)
    }
}

/// Whether sizes are the expected ones, where `None` is any rank: at least 1.
fn fits(found: &[usize], expected: &[Option<usize>]) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(&found, expected)| expected.map_or(found > 0, |expected| found == expected))
}

fn list(expected: &[Option<usize>]) -> String {
    expected
        .iter()
        .map(|size| size.map_or_else(|| "rank".to_owned(), |size| size.to_string()))
        .collect::<Vec<_>>()
        .join(", ")
}

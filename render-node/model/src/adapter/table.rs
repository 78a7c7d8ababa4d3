use std::collections::HashMap;

use super::AdapterProblem;
use crate::config::UnetConfig;
use crate::inventory;
use crate::safetensors::TensorView;

/// A layer with a weight matrix or kernel, which an adapter can change.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// As in `down_blocks.0.resnets.0.spatial_res_block.conv1`.
    pub path: String,
    /// (out, in) or (out, in, kernel..).
    pub weight_shape: Vec<usize>,
}

/// All modules of a UNet that an adapter can change, by path and by path with `_` for `.`.
#[derive(Debug)]
pub struct ModuleTable {
    modules: Vec<Module>,
    by_path: HashMap<String, usize>,
    by_joined_path: HashMap<String, usize>,
}

impl ModuleTable {
    pub fn of(config: &UnetConfig) -> Self {
        let modules: Vec<Module> = inventory::unet(config)
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
            modules,
            by_path,
            by_joined_path,
        }
    }

    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module that an adapter's key names.
    pub(super) fn find(&self, path: &KeyPath<'_>) -> Option<&Module> {
        let index = match path {
            KeyPath::Dotted(path) => self.by_path.get(path.as_ref()),
            KeyPath::Joined(path) => self.by_joined_path.get(*path),
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
        let kernel = &rest[1..];
        let ones = vec![1; kernel.len()];
        let down_rank = *down.shape.first().unwrap_or(&0);
        let down_shape = [&[down_rank], rest].concat();
        // A half that does not fit says nothing of the other.
        let rank = match down.shape == down_shape {
            true => down_rank,
            false => *up.shape.get(1).unwrap_or(&0),
        };
        let up_shape = [&[*out, rank], ones.as_slice()].concat();
        let mut fits = true;
        let mut expect = |key: &String, found: &[usize], shape: &[usize], text: String| {
            if found != shape || rank == 0 {
                let expected = format!("{text} to change a weight of {:?}", self.weight_shape);
                problems.push(AdapterProblem::Shape {
                    key: key.clone(),
                    found: found.to_vec(),
                    expected,
                });
                fits = false;
            }
        };
        expect(
            down_key,
            &down.shape,
            &down_shape,
            format!("[rank, {}]", list(rest)),
        );
        expect(
            up_key,
            &up.shape,
            &up_shape,
            format!("[{}]", list(&up_shape)),
        );
        fits.then_some(rank)
    }
}

fn list(sizes: &[usize]) -> String {
    sizes
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

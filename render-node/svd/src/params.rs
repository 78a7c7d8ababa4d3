//! The parameters of one component: on their device, in the layout the kernels read, known by their reference names.
//!
//! Modules hold shares of the same tensors, so [`Params::replace`] changes what every module computes with, at once.
//! The mapped file stays open as the pristine copy: [`Params::restore`] reads the tensor from it again, the same way as
//! the first time, hence bit for bit.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Deref;

use bytes::Bytes;
use flowai_model::Weights;
use flowai_model::safetensors::{Dtype as FileDtype, TensorView};
use tch::{Device, Kind, Tensor};

use crate::error::{EngineError, Result};

/// In which precision a component's parameters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    pub device: Device,
    pub kind: Kind,
    /// Values are rounded to this first. The reference upcasts an fp16 VAE: its fp32 weights are rounded ones.
    pub rounded_to: Option<Kind>,
}

/// Layers of one module that read the same input: one product of their stacked rows instead of three.
const STACKED: [&str; 3] = ["to_q", "to_k", "to_v"];

/// A share of one parameter, in the layout of [`Params`].
#[derive(Debug)]
pub struct Param {
    value: Tensor,
    /// The tensor may point into the mapped file, which must outlive it.
    _file: Option<Bytes>,
}

impl Deref for Param {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.value
    }
}

#[derive(Debug)]
struct Entry {
    value: Tensor,
    /// `value` is a part of one of [`Params::stacks`].
    is_stacked: bool,
    pristine: TensorView,
}

/// Every parameter of one component, by its name in diffusers or transformers.
///
/// Layouts: matrices and vectors as in the file; kernels of 2-D convolutions (O, I, kh, kw) with the input channels
/// innermost in memory; kernels of temporal convolutions (O, I, 3, 1, 1) the same way, as (O, I, 3, 1).
#[derive(Debug)]
pub struct Params {
    entries: BTreeMap<String, Entry>,
    /// By module and kind, as `down_blocks.0.attentions.0.transformer_blocks.0.attn1.weight`: the rows of its queries, keys and
    /// values, of which its entries are parts.
    stacks: BTreeMap<String, Tensor>,
    precision: Precision,
}

impl Params {
    /// Brings the tensors of `weights` that `is_needed` names to their device, precision and layout, one after the other.
    ///
    /// On a CPU, a matrix or vector that the file holds in the wanted precision is used in place. Nothing is in memory
    /// twice: pages of the file that were converted are given back to the system.
    pub fn load(
        weights: &Weights,
        precision: Precision,
        is_needed: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (name, view) in weights.iter().filter(|(name, _)| is_needed(name)) {
            let value = materialise(view, precision)?;
            let entry = Entry {
                value,
                is_stacked: false,
                pristine: view.clone(),
            };
            entries.insert(name.to_owned(), entry);
        }
        let stacks = stack(&mut entries)?;
        Ok(Self {
            entries,
            stacks,
            precision,
        })
    }

    /// Takes in another component's parameters, of the same precision, with `prefix` before their names: what changes weights
    /// by name then reaches both. Modules find theirs where they found them before.
    pub fn adopt(&mut self, prefix: &str, other: Self) {
        let renamed = other.entries.into_iter();
        let renamed = renamed.map(|(name, entry)| (format!("{prefix}{name}"), entry));
        self.entries.extend(renamed);
    }

    /// Where the component's modules find their parameters.
    pub fn root(&self) -> Scope<'_> {
        Scope {
            params: self,
            path: String::new(),
        }
    }

    /// The precision of the parameters and of what is computed with them.
    pub fn kind(&self) -> Kind {
        self.precision.kind
    }

    pub fn device(&self) -> Device {
        self.precision.device
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape that the file and the reference give the parameter.
    pub fn shape(&self, name: &str) -> Result<Vec<i64>> {
        Ok(shape_of(&self.entry(name)?.pristine))
    }

    /// The unchanged parameter in the precision of this component, in the reference's shape and plain layout.
    pub fn pristine(&self, name: &str) -> Result<Tensor> {
        convert(&self.entry(name)?.pristine, self.precision)
    }

    /// Lets all modules compute with `value`: any float precision, in the reference's shape.
    pub fn replace(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let Precision { device, kind, .. } = self.precision;
        let value = arrange(value.f_to_device(device)?.f_to_kind(kind)?)?;
        self.put(name, &value)
    }

    /// Undoes every [`Params::replace`] of the parameter, bit for bit.
    pub fn restore(&mut self, name: &str) -> Result<()> {
        let value = materialise(&self.entry(name)?.pristine, self.precision)?;
        self.put(name, &value)
    }

    fn put(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let entry = self.entries.get_mut(name).ok_or_else(|| missing(name))?;
        if entry.is_stacked {
            entry.value.f_copy_(value)?;
            return Ok(());
        }
        // Exchanges the storage below the tensor that modules share, instead of writing into a mapped file.
        Ok(entry.value.f_set_data(value)?)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| missing(name))
    }
}

/// A path in the module tree, as in `down_blocks.0.resnets.1`.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    params: &'a Params,
    path: String,
}

impl Scope<'_> {
    /// The module `child` of this one; a path of several modules works too.
    pub fn at(&self, child: impl Display) -> Self {
        Self {
            params: self.params,
            path: self.full(child),
        }
    }

    /// The parameter `leaf` of this module.
    ///
    /// Errors: it is not in the inventory that the weights were checked against, a bug of the engine.
    pub fn get(&self, leaf: &str) -> Result<Param> {
        let entry = self.params.entry(&self.full(leaf))?;
        Ok(Param {
            value: entry.value.shallow_clone(),
            _file: Some(entry.pristine.data.clone()),
        })
    }

    /// The rows of the module's `to_q`, `to_k` and `to_v`, one below the other: `leaf` is `weight` or `bias`.
    ///
    /// Errors: their inputs are of different widths, or one of them is not there.
    pub fn get_stacked(&self, leaf: &str) -> Result<Param> {
        let name = self.full(leaf);
        let stack = self.params.stacks.get(&name);
        Ok(Param {
            value: stack.ok_or_else(|| missing(&name))?.shallow_clone(),
            _file: None,
        })
    }

    fn full(&self, child: impl Display) -> String {
        if self.path.is_empty() {
            child.to_string()
        } else {
            format!("{}.{child}", self.path)
        }
    }
}

fn missing(name: &str) -> EngineError {
    EngineError::Torch(tch::TchError::TensorNameNotFound(
        name.to_owned(),
        "the model".to_owned(),
    ))
}

fn shape_of(view: &TensorView) -> Vec<i64> {
    view.shape.iter().map(|&size| size as i64).collect()
}

/// Puts queries, keys and values that are all there, and as wide, into one tensor each.
fn stack(entries: &mut BTreeMap<String, Entry>) -> Result<BTreeMap<String, Tensor>> {
    let mut stacks = BTreeMap::new();
    let firsts: Vec<(String, String)> = entries
        .keys()
        .filter_map(|name| {
            let (path, leaf) = name.rsplit_once('.')?;
            let module = path.strip_suffix(STACKED[0])?.strip_suffix('.')?;
            Some((module.to_owned(), leaf.to_owned()))
        })
        .collect();
    for (module, leaf) in firsts {
        let names = STACKED.map(|layer| format!("{module}.{layer}.{leaf}"));
        let parts: Vec<&Tensor> = names
            .iter()
            .filter_map(|name| Some(&entries.get(name)?.value))
            .collect();
        let is_of_one_input = |part: &&Tensor| part.size().get(1) == parts[0].size().get(1);
        if parts.len() < names.len() || !parts.iter().all(is_of_one_input) {
            continue;
        }
        let stack = Tensor::f_cat(&parts, 0)?;
        let mut start = 0;
        for name in &names {
            let entry = entries.get_mut(name).ok_or_else(|| missing(name))?;
            let rows = entry.value.size()[0];
            entry.value = stack.f_narrow(0, start, rows)?;
            entry.is_stacked = true;
            start += rows;
            release_pages(&entry.pristine.data);
        }
        stacks.insert(format!("{module}.{leaf}"), stack);
    }
    Ok(stacks)
}

/// The tensor in precision and layout; the file's pages are let go where it no longer points at them.
fn materialise(view: &TensorView, precision: Precision) -> Result<Tensor> {
    let value = arrange(convert(view, precision)?)?;
    if value.data_ptr().cast_const().cast() != view.data.as_ptr() {
        release_pages(&view.data);
    }
    Ok(value)
}

/// Device and precision. The result may point into the mapped file, which [`Param`] and [`Params`] keep alive.
fn convert(view: &TensorView, precision: Precision) -> Result<Tensor> {
    let mut value = borrow(view)?;
    if let Some(kind) = precision.rounded_to {
        value = value.f_to_kind(kind)?;
    }
    // To the device first: files are often fp16, so half the bytes travel.
    Ok(value
        .f_to_device(precision.device)?
        .f_to_kind(precision.kind)?)
}

/// Convolution kernels with the input channels innermost; everything else as it is.
fn arrange(value: Tensor) -> Result<Tensor> {
    let value = match value.dim() {
        5 => value.f_squeeze_dim(-1)?,
        _ => value,
    };
    Ok(match value.dim() {
        4 => value
            .f_permute([0, 2, 3, 1])?
            .f_contiguous()?
            .f_permute([0, 3, 1, 2])?,
        _ => value,
    })
}

#[allow(
    unsafe_code,
    reason = "a tensor over mapped bytes instead of a copy of them"
)]
fn borrow(view: &TensorView) -> Result<Tensor> {
    let kind = match view.dtype {
        FileDtype::F16 => Kind::Half,
        FileDtype::Bf16 => Kind::BFloat16,
        FileDtype::F32 => Kind::Float,
        FileDtype::I64 => Kind::Int64,
    };
    let shape = shape_of(view);
    let start = view.data.as_ptr();
    if start.align_offset(view.dtype.size()) != 0 {
        return Ok(Tensor::f_from_data_size(&view.data, &shape, kind)?);
    }
    // SAFETY: the view covers exactly the shape's elements (its reader checks that), `start` is aligned for them, the bytes
    // live as long as `Bytes` does, which every holder of the tensor keeps, and nothing in this crate writes to parameters.
    Ok(unsafe { Tensor::f_from_blob(start, &shape, &strides(&shape), kind, Device::Cpu) }?)
}

fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Tells the system that the mapped pages which `bytes` fills will not be needed soon; they are read again when touched.
#[allow(
    unsafe_code,
    reason = "madvise has no safe wrapper for a part of a map"
)]
fn release_pages(bytes: &Bytes) {
    const PAGE: usize = 4096;
    let start = (bytes.as_ptr() as usize).next_multiple_of(PAGE);
    let end = (bytes.as_ptr() as usize + bytes.len()) / PAGE * PAGE;
    if start < end {
        // SAFETY: whole pages inside a read-only file mapping; dropping them loses nothing. An error is harmless too.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

//! The parameters of one component: on their device, in the layout the kernels read, known by their reference names.
//!
//! Modules hold shares of the same tensors, so [`Params::write`] changes what every module computes with, at once and in
//! place: a module may also compute with a part of a larger tensor. The mapped file stays open as the pristine copy:
//! [`Params::restore`] reads the tensor from it again, the same way as the first time, hence bit for bit.

use std::cell::OnceCell;
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
    /// A copy of the unchanged parameter on a device that does not see the mapped file, once it was asked for.
    device_copy: OnceCell<Tensor>,
}

/// An unchanged parameter, in the reference's shape, to be read piece by piece.
#[derive(Debug)]
pub struct Pristine {
    stored: Tensor,
    precision: Precision,
    /// The tensor may point into the mapped file, which must outlive it.
    _file: Bytes,
}

impl Pristine {
    /// Of a tensor that is held in whatever precision.
    pub fn new(stored: Tensor, precision: Precision) -> Self {
        Self {
            stored,
            precision,
            _file: Bytes::new(),
        }
    }

    pub fn shape(&self) -> Vec<i64> {
        self.stored.size()
    }

    /// The precision and device of what [`Pristine::rows`] gives.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether it is a matrix that is kept and computed with in f32, so that reading it converts nothing.
    pub fn is_f32_matrix(&self) -> bool {
        let Precision {
            kind, rounded_to, ..
        } = self.precision;
        let is_f32 = self.stored.f_kind().is_ok_and(|kept| kept == Kind::Float);
        is_f32 && kind == Kind::Float && rounded_to.is_none() && self.stored.dim() == 2
    }

    /// All of it, as the model computes with it. Not to be written to: it may lie in the file.
    pub fn whole(&self) -> Result<Tensor> {
        place(self.stored.shallow_clone(), self.precision)
    }

    /// `count` rows from `start` on, likewise.
    pub fn rows(&self, start: i64, count: i64) -> Result<Tensor> {
        place(self.stored.f_narrow(0, start, count)?, self.precision)
    }
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
                device_copy: OnceCell::new(),
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

    /// The unchanged parameter. On a GPU the first call copies it there, where it stays: reading it again moves no bytes
    /// between host and device.
    pub fn pristine(&self, name: &str) -> Result<Pristine> {
        let entry = self.entry(name)?;
        let view = &entry.pristine;
        let stored = match (self.precision.device, entry.device_copy.get()) {
            (Device::Cpu, _) => borrow(view)?,
            (_, Some(copy)) => copy.shallow_clone(),
            (_, None) => {
                let copy = convert(view, self.precision)?;
                release_pages(&view.data);
                entry.device_copy.get_or_init(|| copy).shallow_clone()
            }
        };
        Ok(Pristine {
            stored,
            precision: self.precision,
            _file: view.data.clone(),
        })
    }

    /// Lets `fill` write what all modules compute with from now on, in place and all of it: what it is given, in the
    /// reference's shape, may hold anything before. It may also keep a share of it and write later, before anything is
    /// computed. An error leaves it half written.
    ///
    /// The first call for a parameter that lies in the mapped file makes room for it, which is kept from then on.
    pub fn write(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut Tensor) -> Result<()>,
    ) -> Result<()> {
        let entry = self.entries.get_mut(name).ok_or_else(|| missing(name))?;
        if entry.is_mapped() {
            let own = entry.value.f_empty_like()?;
            // Exchanges the storage below the tensor that modules share.
            entry.value.f_set_data(&own)?;
        }
        let mut value = match entry.pristine.shape.len() {
            5 => entry.value.f_unsqueeze(-1)?,
            _ => entry.value.shallow_clone(),
        };
        fill(&mut value)
    }

    /// Undoes every [`Params::write`] of the parameter, bit for bit.
    pub fn restore(&mut self, name: &str) -> Result<()> {
        let pristine = self.pristine(name)?;
        self.write(name, |value| Ok(value.f_copy_(&pristine.whole()?)?))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| missing(name))
    }
}

impl Entry {
    /// Whether the modules read the parameter where the file is mapped, which is never written to.
    fn is_mapped(&self) -> bool {
        let file = self.pristine.data.as_ptr_range();
        self.value.device() == Device::Cpu
            && file.contains(&self.value.data_ptr().cast_const().cast())
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
    place(borrow(view)?, precision)
}

fn place(mut value: Tensor, precision: Precision) -> Result<Tensor> {
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
pub(crate) fn borrow(view: &TensorView) -> Result<Tensor> {
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
    // live as long as `Bytes` does, which every holder of the tensor keeps, and nobody writes to them: what [`Params::write`]
    // gives away does not lie in a file.
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

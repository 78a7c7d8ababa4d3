//! Tensors to and from safetensors bytes.

use std::borrow::Cow;
use std::collections::HashMap;

use flowai_model::safetensors::{Dtype as FileDtype, TensorView};
use safetensors::{Dtype, View};
use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// A tensor's elements, row-major on the CPU, ready for a safetensors writer.
#[derive(Debug)]
pub struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl StoredTensor {
    /// Copies the elements; the bits stay as they are.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        let (dtype, size) = match tensor.f_kind()? {
            Kind::Half => (Dtype::F16, 2),
            Kind::BFloat16 => (Dtype::BF16, 2),
            Kind::Float => (Dtype::F32, 4),
            other => return Err(tch::TchError::Kind(format!("{other:?} is not stored")).into()),
        };
        let elements = tensor.numel();
        let mut bytes = vec![0; elements * size];
        let plain = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
        plain.f_copy_data_u8(&mut bytes, elements)?;
        Ok(Self {
            dtype,
            shape: tensor
                .size()
                .iter()
                .map(|&n| n.unsigned_abs() as usize)
                .collect(),
            bytes,
        })
    }
}

impl View for &StoredTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The bytes of a safetensors file. At most one metadata key, so that equal content is equal bytes.
pub fn serialize<Name: AsRef<str>>(
    tensors: &[(Name, StoredTensor)],
    metadata: Option<(&str, String)>,
) -> std::result::Result<Vec<u8>, safetensors::SafeTensorError> {
    let metadata = metadata.map(|(key, value)| HashMap::from([(key.to_owned(), value)]));
    let views = tensors.iter().map(|(name, tensor)| (name.as_ref(), tensor));
    safetensors::serialize(views, metadata)
}

/// A tensor of a file on the CPU, copied, in its own precision.
pub fn read(view: &TensorView) -> Result<Tensor> {
    let kind = match view.dtype {
        FileDtype::F16 => Kind::Half,
        FileDtype::Bf16 => Kind::BFloat16,
        FileDtype::F32 => Kind::Float,
        FileDtype::I64 => Kind::Int64,
    };
    let shape: Vec<i64> = view.shape.iter().map(|&n| n as i64).collect();
    Ok(Tensor::f_from_data_size(&view.data, &shape, kind)?)
}

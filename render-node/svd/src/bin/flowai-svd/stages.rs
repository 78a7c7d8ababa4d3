use anyhow::Result;
use flowai_svd::tensor_file::{self, StoredTensor};
use tch::{Kind, Tensor};

/// Intermediate results, kept only when they were asked for.
pub(crate) struct Stages {
    wanted: bool,
    tensors: Vec<(String, StoredTensor)>,
}

impl Stages {
    pub(crate) fn new(wanted: bool) -> Self {
        let tensors = Vec::new();
        Self { wanted, tensors }
    }

    pub(crate) fn keep(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        if self.wanted {
            let tensor = StoredTensor::new(&tensor.f_to_kind(Kind::Float)?)?;
            self.tensors.push((name.to_owned(), tensor));
        }
        Ok(())
    }

    /// A safetensors file of everything that was kept.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(tensor_file::serialize(&self.tensors, None)?)
    }
}

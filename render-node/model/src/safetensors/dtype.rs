use std::fmt;

use half::{bf16, f16};

/// The element types that a model or adapter may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    F16,
    Bf16,
    F32,
    /// Only for position ids that old image encoder files store; nothing computes with it.
    I64,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }

    /// As safetensors headers write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
            Self::I64 => "I64",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::F16, Self::Bf16, Self::F32, Self::I64]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

    pub(super) fn to_f32(self, data: &[u8]) -> Vec<f32> {
        match self {
            Self::F16 => elements(data)
                .map(|b| f16::from_le_bytes(b).to_f32())
                .collect(),
            Self::Bf16 => elements(data)
                .map(|b| bf16::from_le_bytes(b).to_f32())
                .collect(),
            Self::F32 => elements(data).map(f32::from_le_bytes).collect(),
            Self::I64 => elements(data)
                .map(|b| i64::from_le_bytes(b) as f32)
                .collect(),
        }
    }

    /// Little-endian elements, rounded to nearest with ties to even.
    pub(crate) fn to_bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F16 => values
                .iter()
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
            Self::Bf16 => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            Self::F32 => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Self::I64 => values
                .iter()
                .flat_map(|&value| (value as i64).to_le_bytes())
                .collect(),
        }
    }

    pub(super) fn first_not_finite(self, data: &[u8]) -> Option<usize> {
        match self {
            Self::F16 => elements(data).position(|b| !f16::from_le_bytes(b).is_finite()),
            Self::Bf16 => elements(data).position(|b| !bf16::from_le_bytes(b).is_finite()),
            Self::F32 => elements(data).position(|b| !f32::from_le_bytes(b).is_finite()),
            Self::I64 => None,
        }
    }
}

fn elements<const SIZE: usize>(data: &[u8]) -> impl Iterator<Item = [u8; SIZE]> + '_ {
    data.as_chunks::<SIZE>().0.iter().copied()
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

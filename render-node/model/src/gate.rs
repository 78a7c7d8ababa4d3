//! What an adapter file of a user must pass before it is stored, or a render node looks at it.
//!
//! The gate knows no model: it proves that the bytes are one well-formed safetensors file within caps, of halves and
//! floats, all finite, and nothing else. Whether the tensors fit a model is for [`crate::adapter`].
//!
//! One exception: an alpha may be a single I64, as diffusers' converter to kohya's names writes it.

use bytes::Bytes;

use crate::safetensors::{Dtype, Limits, SafetensorsError, SafetensorsFile};

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    File(#[from] SafetensorsError),
    #[error("tensor {name:?} has NaN or an infinity at element {index}")]
    NotFinite { name: String, index: usize },
    #[error("tensor {name:?} is I64; allowed are F16, BF16 and F32, and one I64 as an alpha")]
    Integers { name: String },
    #[error("has no tensors")]
    Empty,
}

/// Checks a whole file in memory or mapped; see the module for what it proves.
///
/// Costs one pass over the bytes. The caps are [`Limits::ADAPTER`]; a caller that receives the file in pieces stops at
/// `Limits::ADAPTER.file_bytes_max` by itself.
pub fn check(bytes: Bytes) -> Result<SafetensorsFile, GateError> {
    let file = SafetensorsFile::parse(bytes, &Limits::ADAPTER)?;
    if file.tensors.is_empty() {
        return Err(GateError::Empty);
    }
    for (name, tensor) in &file.tensors {
        if tensor.dtype == Dtype::I64 && !(name.ends_with(".alpha") && tensor.elements() == 1) {
            return Err(GateError::Integers { name: name.clone() });
        }
        if let Some(index) = tensor.first_not_finite() {
            return Err(GateError::NotFinite {
                name: name.clone(),
                index,
            });
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors::corpus::{f32_file, file};

    #[test]
    fn finite_tensors_pass() {
        let bytes = f32_file(&[("a", &[2], 1.0), ("b", &[3], -f32::MAX)], None);
        assert_eq!(check(bytes.into()).unwrap().tensors.len(), 2);
    }

    #[test]
    fn nan_and_infinity_are_refused_by_name() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let bytes = f32_file(&[("a", &[2], 1.0), ("b.weight", &[3], value)], None);
            let error = check(bytes.into()).unwrap_err();
            assert!(matches!(error, GateError::NotFinite { name, index: 0 } if name == "b.weight"));
        }
    }

    #[test]
    fn integers_are_only_for_a_single_alpha() {
        let one = |name: &str, shape: &str| {
            let header =
                format!(r#"{{"{name}":{{"dtype":"I64","shape":{shape},"data_offsets":[0,8]}}}}"#);
            check(file(header, &[4, 0, 0, 0, 0, 0, 0, 0]).into())
        };
        assert_eq!(
            one("lora_unet_conv_in.alpha", "[]").unwrap().tensors["lora_unet_conv_in.alpha"]
                .to_f32(),
            [4.0]
        );
        for (name, shape) in [("lora_unet_conv_in.lora_up.weight", "[1]"), ("a", "[]")] {
            assert!(
                matches!(one(name, shape), Err(GateError::Integers { .. })),
                "{name}"
            );
        }
        let header = r#"{"a.alpha":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}"#;
        assert!(matches!(
            check(file(header, &[0; 16]).into()),
            Err(GateError::Integers { .. })
        ));
    }

    #[test]
    fn an_empty_file_is_refused() {
        assert!(matches!(
            check(file("{}", &[]).into()),
            Err(GateError::Empty)
        ));
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_own_reason() {
        let error = check(Bytes::from_static(b"PK\x03\x04\0\0\0\0\0\0")).unwrap_err();
        assert!(
            matches!(error, GateError::File(SafetensorsError::Zip)),
            "{error}"
        );
    }
}

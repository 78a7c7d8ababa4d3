use serde_json::json;

use super::corpus::{entry, f32_file, file};
use super::*;

fn parse(bytes: Vec<u8>) -> Result<SafetensorsFile, SafetensorsError> {
    SafetensorsFile::parse(Bytes::from(bytes), &Limits::ADAPTER)
}

/// Asserts that `bytes` are refused with the error that `pattern` matches.
macro_rules! refused {
    ($bytes:expr, $pattern:pat $(if $guard:expr)?) => {
        match parse($bytes) {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

#[test]
fn a_well_formed_file_is_read_without_copies() {
    let bytes = f32_file(
        &[
            ("a.weight", &[2, 3], 1.5),
            ("b.alpha", &[], 8.0),
            ("empty", &[0, 4], 0.0),
        ],
        Some(json!({ "format": "pt" })),
    );
    let whole = Bytes::from(bytes);
    let file = SafetensorsFile::parse(whole.clone(), &Limits::ADAPTER).unwrap();
    assert_eq!(file.metadata["format"], "pt");
    assert_eq!(
        file.tensors.keys().collect::<Vec<_>>(),
        ["a.weight", "b.alpha", "empty"]
    );
    let a = &file.tensors["a.weight"];
    assert_eq!(
        (a.dtype, a.shape.as_slice(), a.to_f32()),
        (Dtype::F32, [2, 3].as_slice(), vec![1.5; 6])
    );
    assert!(whole.as_ptr_range().contains(&a.data.as_ptr()));
    assert_eq!(file.tensors["b.alpha"].to_f32(), [8.0]);
    assert_eq!(file.tensors["empty"].elements(), 0);
}

#[test]
fn a_header_as_long_as_a_pickle_opcode_is_no_pickle() {
    let mut header = format!(r#"{{"a":{}}}"#, entry(0, 1));
    header += &" ".repeat(0x280 - header.len());
    let bytes = file(header, &[0; 4]);
    assert_eq!(bytes[..2], [0x80, 2]);
    parse(bytes).unwrap();
}

#[test]
fn pickles_and_archives_are_refused_by_name() {
    refused!(
        b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl".to_vec(),
        SafetensorsError::Zip
    );
    refused!(b"PK\x05\x06".to_vec(), SafetensorsError::Zip);
    refused!(
        b"\x80\x02}q\x00X\x06\x00\x00\x00weightq\x01.".to_vec(),
        SafetensorsError::Pickle
    );
    refused!(
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00".to_vec(),
        SafetensorsError::Pickle
    );
}

#[test]
fn a_bloated_header_is_refused_before_it_is_parsed() {
    // Not JSON: had it been parsed, the error would be another.
    refused!(
        file("{".repeat(90_000_000), &[]),
        SafetensorsError::HeaderTooLong {
            bytes: 90_000_000,
            limit: 1_048_576
        }
    );
    refused!(file([], &[b'x'; 16]), SafetensorsError::NotAnObject);
    refused!(
        [0xff; 64].to_vec(),
        SafetensorsError::HeaderTooLong {
            bytes: u64::MAX,
            ..
        }
    );
}

#[test]
fn a_cut_or_foreign_file_is_refused() {
    refused!(vec![], SafetensorsError::TooShort { bytes: 0 });
    refused!(vec![1, 0, 0], SafetensorsError::TooShort { bytes: 3 });
    refused!(file("[1, 2]", &[]), SafetensorsError::NotAnObject);
    let mut cut = file(format!(r#"{{"a":{}}}"#, entry(0, 1)), &[]);
    cut.truncate(30);
    refused!(
        cut,
        SafetensorsError::HeaderTruncated {
            bytes: 54,
            available: 22
        }
    );
}

#[test]
fn malformed_headers_are_refused() {
    for header in [
        "{",
        "{}}",
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":[]}"#,
        &format!(r#"{{"a":{}}}"#, "[".repeat(100_000)),
    ] {
        refused!(file(header, &[0; 4]), SafetensorsError::Header(_));
    }
    refused!(file(b"{\"\xff\":1}", &[]), SafetensorsError::Header(_));
}

#[test]
fn doubled_keys_are_refused_however_they_are_spelt() {
    let header = format!(r#"{{"a":{},"\u0061":{}}}"#, entry(0, 1), entry(4, 1));
    refused!(file(header, &[0; 8]), SafetensorsError::DuplicateKey(key) if key == "a");
    let header = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    refused!(file(header, &[]), SafetensorsError::DuplicateKey(key) if key == "k");
    let header = r#"{"__metadata__":{},"__metadata__":{}}"#;
    refused!(file(header, &[]), SafetensorsError::DuplicateKey(key) if key == "__metadata__");
}

#[test]
fn data_that_is_not_exactly_the_tensors_is_refused() {
    let two = |first: String, second: String| format!(r#"{{"a":{first},"b":{second}}}"#);
    refused!(
        file(two(entry(0, 2), entry(4, 2)), &[0; 12]),
        SafetensorsError::Overlap { first, second } if (first.as_str(), second.as_str()) == ("a", "b")
    );
    refused!(
        file(two(entry(0, 1), entry(8, 1)), &[0; 12]),
        SafetensorsError::Hole { name, bytes: 4 } if name == "b"
    );
    refused!(
        file(two(entry(0, 1), entry(4, 1)), &[0; 9]),
        SafetensorsError::TrailingBytes { bytes: 1 }
    );
    refused!(
        file("{}", &[0]),
        SafetensorsError::TrailingBytes { bytes: 1 }
    );
    refused!(
        file(two(entry(0, 1), entry(4, 1)), &[0; 7]),
        SafetensorsError::Truncated { name, end: 8, available: 7 } if name == "b"
    );
}

#[test]
fn shapes_that_do_not_fit_their_bytes_are_refused() {
    let tensor = |shape: &str, begin: u64, end: u64| {
        file(
            format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#),
            &[0; 4],
        )
    };
    refused!(
        tensor("[4294967296,4294967296]", 0, 4),
        SafetensorsError::ShapeOverflow { .. }
    );
    refused!(
        tensor("[4611686018427387904]", 0, 0),
        SafetensorsError::ShapeOverflow { .. }
    );
    refused!(
        tensor("[2]", 0, 4),
        SafetensorsError::SizeMismatch {
            expected: 8,
            spanned: Some(4),
            ..
        }
    );
    refused!(
        tensor("[1]", 4, 0),
        SafetensorsError::SizeMismatch {
            expected: 4,
            spanned: None,
            ..
        }
    );
    refused!(
        tensor("[1,1,1,1,1,1,1,1,1]", 0, 4),
        SafetensorsError::TooManyDimensions { rank: 9, .. }
    );
}

#[test]
fn error_texts_stay_short_whatever_the_file_says() {
    let long = "x".repeat(100_000);
    let keys = f32_file(&[(&long, &[1], 0.0)], None);
    refused!(keys, SafetensorsError::KeyTooLong { bytes: 100_000, .. });
    for header in [
        format!(r#"{{"a":{{"dtype":"{long}","shape":[1],"data_offsets":[0,4]}}}}"#),
        format!(r#"{{"a":"{long}"}}"#),
        format!(r#"{{"a":{{"{long}":1}}}}"#),
    ] {
        let text = parse(file(header, &[0; 4])).unwrap_err().to_string();
        assert!(text.len() < 300, "{}", text.len());
    }
}

#[test]
fn other_dtypes_are_refused_for_adapters() {
    for dtype in ["F64", "I32", "F8_E4M3", "BOOL", "f32"] {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,4]}}}}"#);
        refused!(file(header, &[0; 4]), SafetensorsError::Dtype { dtype: got, .. } if got == dtype);
    }
}

#[test]
fn caps_on_metadata_and_tensors_hold() {
    let metadata = json!({ "training": "x".repeat(65_536) });
    refused!(
        f32_file(&[], Some(metadata)),
        SafetensorsError::MetadataTooLarge { bytes: 65_544, .. }
    );

    let limits = Limits {
        tensors_max: 2,
        ..Limits::ADAPTER
    };
    let bytes = f32_file(
        &[("a", &[1], 0.0), ("b", &[1], 0.0), ("c", &[1], 0.0)],
        None,
    );
    let error = SafetensorsFile::parse(bytes.clone().into(), &limits).unwrap_err();
    assert!(matches!(
        error,
        SafetensorsError::TooManyTensors { count: 3, limit: 2 }
    ));

    let limits = Limits {
        file_bytes_max: bytes.len() as u64 - 1,
        ..Limits::ADAPTER
    };
    let error = SafetensorsFile::parse(bytes.into(), &limits).unwrap_err();
    assert!(matches!(error, SafetensorsError::FileTooLarge { .. }));
}

#[test]
fn elements_that_are_not_finite_are_found_in_every_dtype() {
    let check = |dtype: Dtype, data: Vec<u8>, expected: Option<usize>| {
        let view = TensorView {
            dtype,
            shape: vec![data.len() / dtype.size()],
            data: data.into(),
        };
        assert_eq!(view.first_not_finite(), expected, "{dtype}");
    };
    let f32s = |values: [f32; 2]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    check(Dtype::F32, f32s([1.0, f32::MAX]), None);
    check(Dtype::F32, f32s([1.0, f32::NAN]), Some(1));
    check(Dtype::F32, f32s([f32::NEG_INFINITY, 1.0]), Some(0));
    check(Dtype::F16, vec![0xff, 0x7b, 0x00, 0x7c], Some(1));
    check(Dtype::F16, vec![0xff, 0x7b, 0x01, 0x00], None);
    check(Dtype::Bf16, vec![0x7f, 0x7f, 0xc0, 0xff], Some(1));
    check(Dtype::Bf16, vec![0x7f, 0x7f, 0x00, 0x00], None);
}

#[test]
fn halves_convert_exactly() {
    let view = |dtype, data: &'static [u8]| TensorView {
        dtype,
        shape: vec![1],
        data: Bytes::from_static(data),
    };
    assert_eq!(view(Dtype::F16, &[0x00, 0xc2]).to_f32(), [-3.0]);
    assert_eq!(view(Dtype::Bf16, &[0x40, 0x40]).to_f32(), [3.0]);
}

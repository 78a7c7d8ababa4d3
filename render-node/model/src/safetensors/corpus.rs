//! Files that are wrong in one way each, for every reader that must refuse them.

use serde_json::{Value, json};

/// A file from header text and data, however little they fit.
pub(crate) fn file(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(data);
    file
}

/// A file of f32 tensors as (name, shape, value of all elements), laid out in order.
pub(crate) fn f32_file(tensors: &[(&str, &[usize], f32)], metadata: Option<Value>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, value) in tensors {
        let begin = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            data.extend_from_slice(&value.to_le_bytes());
        }
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
        header.insert((*name).to_owned(), entry);
    }
    if let Some(metadata) = metadata {
        header.insert("__metadata__".to_owned(), metadata);
    }
    file(Value::Object(header).to_string(), &data)
}

/// The header entry of an f32 vector of `length` elements at `begin`.
pub(crate) fn entry(begin: usize, length: usize) -> String {
    format!(
        r#"{{"dtype":"F32","shape":[{length}],"data_offsets":[{begin},{}]}}"#,
        begin + 4 * length
    )
}

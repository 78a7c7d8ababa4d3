//! The header check. Everything that a header promises is proved before a tensor is handed out.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{Dtype, Limits, SafetensorsError};

/// The header's length, in bytes, at the start of a file.
const LENGTH_BYTES: usize = 8;
const METADATA_KEY: &str = "__metadata__";
/// A convolution over time has five; nothing here has more than eight.
const DIMENSIONS_MAX: usize = 8;
/// Module paths are some 100 bytes; a longer key would only swell error texts.
const KEY_BYTES_MAX: usize = 512;
const REASON_CHARS_MAX: usize = 200;

pub(super) struct Header {
    /// Where the tensors' bytes begin in the file.
    pub(super) data_start: usize,
    pub(super) tensors: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Relative to the start of the data.
    pub(super) range: Range<usize>,
}

/// Proves the header of a whole file: cheap refusals first, so that no cap is exceeded before it is checked.
pub(super) fn parse(file: &[u8], limits: &Limits) -> Result<Header, SafetensorsError> {
    let (text, data) = split(file, limits)?;
    let raw: RawHeader = serde_json::from_slice(text).map_err(malformed)?;

    let metadata = match <[Object<String>; 1]>::try_from(raw.metadata) {
        Ok([strings]) => check_metadata(strings, limits)?,
        Err(none) if none.is_empty() => BTreeMap::new(),
        Err(_) => return Err(SafetensorsError::DuplicateKey(METADATA_KEY.to_owned())),
    };
    let count = raw.tensors.len();
    if count > limits.tensors_max {
        return Err(SafetensorsError::TooManyTensors {
            count,
            limit: limits.tensors_max,
        });
    }

    let mut tensors = BTreeMap::new();
    for (name, tensor) in raw.tensors {
        let entry = check_tensor(&name, tensor, limits)?;
        if tensors.contains_key(&name) {
            return Err(SafetensorsError::DuplicateKey(name));
        }
        tensors.insert(name, entry);
    }
    check_layout(&tensors, data.len())?;
    Ok(Header {
        data_start: file.len() - data.len(),
        tensors,
        metadata,
    })
}

/// What the JSON reader says, without repeating a megabyte of text that a user sent.
fn malformed(error: serde_json::Error) -> SafetensorsError {
    SafetensorsError::Header(error.to_string().chars().take(REASON_CHARS_MAX).collect())
}

/// Splits a file into header text and data. A file that cannot be one is refused by what it is instead.
fn split<'a>(file: &'a [u8], limits: &Limits) -> Result<(&'a [u8], &'a [u8]), SafetensorsError> {
    if file.len() as u64 > limits.file_bytes_max {
        return Err(SafetensorsError::FileTooLarge {
            bytes: file.len() as u64,
            limit: limits.file_bytes_max,
        });
    }
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(
            foreign_format(file).unwrap_or(SafetensorsError::TooShort { bytes: file.len() })
        );
    };
    let bytes = u64::from_le_bytes(*length);
    let (limit, available) = (limits.header_bytes_max, rest.len() as u64);
    if bytes > limit {
        return Err(
            foreign_format(file).unwrap_or(SafetensorsError::HeaderTooLong { bytes, limit })
        );
    }
    if rest.first() != Some(&b'{') {
        return Err(foreign_format(file).unwrap_or(SafetensorsError::NotAnObject));
    }
    if bytes > available {
        return Err(SafetensorsError::HeaderTruncated { bytes, available });
    }
    Ok(rest.split_at(bytes as usize))
}

/// Recognises what people send instead. Only asked when the bytes are no safetensors file anyway: a header of 640 bytes
/// begins like a pickle.
fn foreign_format(file: &[u8]) -> Option<SafetensorsError> {
    match file {
        // Local file header, or the end of an empty archive.
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(SafetensorsError::Zip),
        // The PROTO opcode with its version, first in every pickle since Python 2.3 wrote protocol 2.
        [0x80, 2..=5, ..] => Some(SafetensorsError::Pickle),
        _ => None,
    }
}

fn check_metadata(
    strings: Object<String>,
    limits: &Limits,
) -> Result<BTreeMap<String, String>, SafetensorsError> {
    let bytes = strings
        .0
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > limits.metadata_bytes_max {
        return Err(SafetensorsError::MetadataTooLarge {
            bytes,
            limit: limits.metadata_bytes_max,
        });
    }
    let mut metadata = BTreeMap::new();
    for (key, value) in strings.0 {
        if metadata.contains_key(&key) {
            let key = key.chars().take(REASON_CHARS_MAX).collect();
            return Err(SafetensorsError::DuplicateKey(key));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn check_tensor(name: &str, raw: RawTensor, limits: &Limits) -> Result<Entry, SafetensorsError> {
    if name.len() > KEY_BYTES_MAX {
        return Err(SafetensorsError::KeyTooLong {
            bytes: name.len(),
            limit: KEY_BYTES_MAX,
        });
    }
    let name = || name.to_owned();
    let dtype = match Dtype::from_name(&raw.dtype) {
        Some(dtype) if limits.dtypes.contains(&dtype) => dtype,
        _ => {
            let allowed = limits
                .dtypes
                .iter()
                .map(|dtype| dtype.name())
                .collect::<Vec<_>>()
                .join(", ");
            return Err(SafetensorsError::Dtype {
                name: name(),
                dtype: raw.dtype.chars().take(16).collect(),
                allowed,
            });
        }
    };
    let rank = raw.shape.len();
    if rank > DIMENSIONS_MAX {
        return Err(SafetensorsError::TooManyDimensions {
            name: name(),
            rank,
            limit: DIMENSIONS_MAX,
        });
    }
    let overflow = || SafetensorsError::ShapeOverflow { name: name() };
    let shape: Vec<usize> = raw
        .shape
        .iter()
        .map(|&side| usize::try_from(side))
        .collect::<Result<_, _>>()
        .map_err(|_| overflow())?;
    let expected = shape
        .iter()
        .try_fold(dtype.size(), |bytes, &side| bytes.checked_mul(side))
        .ok_or_else(overflow)?;
    let (begin, end) = raw.data_offsets;
    let spanned = end.checked_sub(begin);
    if spanned != Some(expected as u64) {
        return Err(SafetensorsError::SizeMismatch {
            name: name(),
            expected,
            spanned,
        });
    }
    let range = usize::try_from(begin).and_then(|begin| usize::try_from(end).map(|end| begin..end));
    Ok(Entry {
        dtype,
        shape,
        range: range.map_err(|_| overflow())?,
    })
}

/// Tensors in order of their offsets must fill the data from its first byte to its last.
fn check_layout(
    tensors: &BTreeMap<String, Entry>,
    available: usize,
) -> Result<(), SafetensorsError> {
    let mut order: Vec<(&String, &Range<usize>)> = tensors
        .iter()
        .map(|(name, entry)| (name, &entry.range))
        .collect();
    order.sort_by_key(|(name, range)| (range.start, range.end, *name));

    let mut end = 0;
    let mut previous = "";
    for (name, range) in order {
        if range.start < end {
            return Err(SafetensorsError::Overlap {
                first: previous.to_owned(),
                second: name.clone(),
            });
        }
        if range.start > end {
            return Err(SafetensorsError::Hole {
                name: name.clone(),
                bytes: (range.start - end) as u64,
            });
        }
        if range.end > available {
            let (end, available) = (range.end as u64, available as u64);
            return Err(SafetensorsError::Truncated {
                name: name.clone(),
                end,
                available,
            });
        }
        (end, previous) = (range.end, name);
    }
    match available - end {
        0 => Ok(()),
        bytes => Err(SafetensorsError::TrailingBytes {
            bytes: bytes as u64,
        }),
    }
}

/// The header with its keys as they stand in the text, twice where they stand twice: maps of serde and most JSON readers
/// keep the last one silently, and two readers that disagree are how a checked file turns into another one.
#[derive(Default)]
struct RawHeader {
    metadata: Vec<Object<String>>,
    tensors: Vec<(String, RawTensor)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == METADATA_KEY {
                header.metadata.push(map.next_value()?);
            } else {
                header.tensors.push((key, map.next_value()?));
            }
        }
        Ok(header)
    }
}

/// An object that keeps doubled keys, as [`RawHeader`] does.
struct Object<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Object<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for ObjectVisitor<V> {
    type Value = Object<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<V>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Object(entries))
    }
}

//! Typed access to the fields of one config file, so that every refusal names file and field.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;

/// Real configs are a few kB.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Sizes above this are no model but a mistake or an attack: they would overflow products of three sizes.
const SIZE_MAX: u64 = 1 << 20;

/// Reads `dir/file` as JSON.
pub(super) fn read_json(dir: &Path, file: &str) -> Result<Value, ConfigError> {
    parse_json(file, &read_bytes(dir, file, CONFIG_BYTES_MAX)?)
}

pub(super) fn parse_json(file: &str, text: &[u8]) -> Result<Value, ConfigError> {
    serde_json::from_slice(text).map_err(|source| ConfigError::Json {
        file: file.to_owned(),
        source,
    })
}

/// Reads `dir/file`, which is at most `limit` bytes long.
pub(super) fn read_bytes(dir: &Path, file: &str, limit: u64) -> Result<Vec<u8>, ConfigError> {
    let path = dir.join(file);
    let read = |source| ConfigError::Read {
        path: path.clone(),
        source,
    };
    let handle = File::open(&path).map_err(read)?;
    let bytes = handle.metadata().map_err(read)?.len();
    if bytes > limit {
        return Err(ConfigError::TooLarge {
            file: file.to_owned(),
            bytes,
            limit,
        });
    }
    let mut text = Vec::new();
    handle.take(limit).read_to_end(&mut text).map_err(read)?;
    Ok(text)
}

/// One config file's object. `null` counts as absent, as `None` is the default wherever Python writes it.
pub(super) struct Fields<'a> {
    file: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(file: &'a str, json: &'a Value) -> Result<Self, ConfigError> {
        match json.as_object() {
            Some(object) => Ok(Self { file, object }),
            None => Err(ConfigError::NotAnObject {
                file: file.to_owned(),
            }),
        }
    }

    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn refuse(&self, field: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::field(self.file, field, reason)
    }

    fn mistyped(&self, field: &str, expected: &str, got: &Value) -> ConfigError {
        self.refuse(field, format!("must be {expected} (got {got})"))
    }

    /// A size of at least 1.
    pub(super) fn size(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        self.get(field)
            .map_or(Ok(default), |value| self.as_size(field, value))
    }

    fn as_size(&self, field: &str, value: &Value) -> Result<usize, ConfigError> {
        match value.as_u64() {
            Some(size @ 1..=SIZE_MAX) => Ok(size as usize),
            _ => Err(self.mistyped(field, &format!("a whole number in 1..={SIZE_MAX}"), value)),
        }
    }

    /// A list of sizes that is not empty.
    pub(super) fn sizes(&self, field: &str, default: &[usize]) -> Result<Vec<usize>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(default.to_vec());
        };
        match value.as_array() {
            Some(list) if !list.is_empty() => {
                list.iter().map(|item| self.as_size(field, item)).collect()
            }
            _ => Err(self.mistyped(field, "a list of sizes", value)),
        }
    }

    /// One size a level: a single value holds for all levels, a list must have one value for each.
    pub(super) fn sizes_per_level(
        &self,
        field: &str,
        levels: usize,
        default: &[usize],
    ) -> Result<Vec<usize>, ConfigError> {
        let sizes = match self.get(field) {
            Some(value) if value.is_array() => self.sizes(field, default)?,
            Some(value) => vec![self.as_size(field, value)?; levels],
            None => match default {
                [size] => vec![*size; levels],
                list => list.to_vec(),
            },
        };
        if sizes.len() != levels {
            return Err(self.refuse(
                field,
                format!(
                    "must have one value for each of the {levels} levels (got {})",
                    sizes.len()
                ),
            ));
        }
        Ok(sizes)
    }

    /// Refuses more layers than any model has: to list their tensors would take all memory.
    pub(super) fn require_at_most(
        &self,
        field: &str,
        counts: &[usize],
        max: usize,
    ) -> Result<(), ConfigError> {
        match counts.iter().find(|count| **count > max) {
            None => Ok(()),
            Some(count) => Err(self.refuse(field, format!("must be at most {max} (got {count})"))),
        }
    }

    /// A side of a square that may be written as one number or as `[height, width]`.
    pub(super) fn square(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        match self.get(field).and_then(Value::as_array).map(Vec::as_slice) {
            None => self.size(field, default),
            Some([height, width]) if height == width => self.as_size(field, height),
            Some(_) => Err(self.refuse(field, "must be one number or two equal ones")),
        }
    }

    pub(super) fn number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.mistyped(field, "a finite number", value)),
        }
    }

    /// A number over 0.
    pub(super) fn positive(&self, field: &str, default: Option<f64>) -> Result<f64, ConfigError> {
        match self.number(field)?.or(default) {
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => Err(self.refuse(field, format!("must be over 0 (got {number})"))),
            None => Err(self.refuse(field, "must be given")),
        }
    }

    /// Three numbers, one a colour channel.
    pub(super) fn rgb(&self, field: &str, default: [f64; 3]) -> Result<[f64; 3], ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        let numbers = value
            .as_array()
            .map(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
        match numbers.flatten().as_deref() {
            Some([r, g, b]) => Ok([*r, *g, *b]),
            _ => Err(self.mistyped(field, "three numbers", value)),
        }
    }

    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        value
            .as_bool()
            .ok_or_else(|| self.mistyped(field, "true or false", value))
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.mistyped(field, "text", value))
    }

    /// A list of texts, or `None` when absent.
    pub(super) fn texts(&self, field: &str) -> Result<Option<Vec<&'a str>>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let texts = value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_str).collect());
        texts
            .map(Some)
            .ok_or_else(|| self.mistyped(field, "a list of texts", value))
    }

    /// Refuses any value but `only`; `default` is what the Python class takes when the field is absent.
    pub(super) fn require_text(
        &self,
        field: &str,
        only: &str,
        default: &str,
    ) -> Result<(), ConfigError> {
        match self.text(field)?.unwrap_or(default) {
            text if text == only => Ok(()),
            text => Err(self.refuse(field, format!("only {only:?} is supported (got {text:?})"))),
        }
    }

    /// As [`Self::require_text`], for a flag.
    pub(super) fn require_flag(
        &self,
        field: &str,
        only: bool,
        default: bool,
    ) -> Result<(), ConfigError> {
        match self.flag(field, default)? {
            flag if flag == only => Ok(()),
            flag => Err(self.refuse(field, format!("only {only} is supported (got {flag})"))),
        }
    }

    /// As [`Self::require_text`], for a number.
    pub(super) fn require_number(&self, field: &str, only: f64) -> Result<(), ConfigError> {
        match self.number(field)?.unwrap_or(only) {
            number if number == only => Ok(()),
            number => Err(self.refuse(field, format!("only {only} is supported (got {number})"))),
        }
    }

    /// Refuses any value but null, which is what the Python class takes when the field is absent.
    pub(super) fn require_null(&self, field: &str) -> Result<(), ConfigError> {
        match self.get(field) {
            None => Ok(()),
            Some(value) => Err(self.refuse(field, format!("only null is supported (got {value})"))),
        }
    }

    /// Refuses a list or object that holds anything.
    pub(super) fn require_empty(&self, field: &str) -> Result<(), ConfigError> {
        let is_empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(object) => object.is_empty(),
            _ => false,
        };
        match self.get(field) {
            Some(value) if !is_empty(value) => Err(self.mistyped(field, "empty", value)),
            _ => Ok(()),
        }
    }

    /// Refuses another class. A file that names no class is taken at its place in the folder.
    pub(super) fn require_class(&self, field: &str, classes: &[&str]) -> Result<(), ConfigError> {
        match self.text(field)? {
            Some(class) if !classes.contains(&class) => Err(self.refuse(
                field,
                format!("must be {} (got {class:?})", classes.join(" or ")),
            )),
            _ => Ok(()),
        }
    }

    /// Which blocks of a UNet have transformers: `field` names one class a level, `plain` or `attention`.
    pub(super) fn attention(
        &self,
        field: &str,
        levels: usize,
        plain: &str,
        attention: &str,
        default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, ConfigError> {
        let Some(types) = self.texts(field)? else {
            // The reference's default names four blocks and holds for no other count.
            return match levels {
                4 => Ok((0..levels).map(default).collect()),
                _ => Err(self.refuse(field, format!("must be given for {levels} levels"))),
            };
        };
        if types.len() != levels {
            return Err(self.refuse(
                field,
                format!("must name one block for each of the {levels} levels"),
            ));
        }
        types
            .iter()
            .map(|name| match *name {
                name if name == plain => Ok(false),
                name if name == attention => Ok(true),
                name => Err(self.refuse(
                    field,
                    format!("only {plain} and {attention} are supported (got {name:?})"),
                )),
            })
            .collect()
    }
}

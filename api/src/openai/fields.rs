//! The fields of a form as the JSON that they stand for.

use std::collections::BTreeSet;

use flowai_actors::limits::ADAPTERS_MAX;
use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// What of a form is a number in JSON.
const NUMBERS: [&str; 16] = [
    "width",
    "height",
    "frames",
    "num_frames",
    "fps",
    "steps",
    "num_inference_steps",
    "motion_bucket_id",
    "noise_aug_strength",
    "min_guidance_scale",
    "max_guidance_scale",
    "guidance_scale",
    "decode_chunk_size",
    "seed",
    "weight",
    "n",
];

/// What came in so far.
#[derive(Debug, Default)]
pub(super) struct Fields {
    object: Map<String, Value>,
    /// Lists some of whose items came without an index.
    unindexed: BTreeSet<String>,
}

impl Fields {
    /// Sets a field by its name in a form: `seed`, `adapters` (JSON), `adapters[][id]` or `adapters[0][id]`,
    /// `input_reference[file_id]`.
    pub(super) fn put(&mut self, name: &str, text: &str) -> Result<(), ApiError> {
        let invalid = |detail: &str| invalid(name, detail);
        let (root, rest) = name.split_once('[').map_or((name, None), |(root, rest)| {
            (root, rest.strip_suffix(']').or(Some(rest)))
        });
        let Some(rest) = rest else {
            let value = match root {
                "adapters" | "lora" | "input_reference" | "keyframe" => serde_json::from_str(text)
                    .map_err(|_| invalid("must be JSON, or a field for each part"))?,
                _ => scalar(root, text),
            };
            self.object.insert(root.to_owned(), value);
            return Ok(());
        };
        let given_twice = || invalid("is given in two ways");
        match rest.split("][").collect::<Vec<_>>()[..] {
            [key] => {
                let inner = self.object.entry(root).or_insert_with(|| json!({}));
                let inner = inner.as_object_mut().ok_or_else(given_twice)?;
                inner.insert(key.to_owned(), scalar(key, text));
            }
            [index, key] => {
                let list = self.object.entry(root).or_insert_with(|| json!([]));
                let list = list.as_array_mut().ok_or_else(given_twice)?;
                // Without an index: the first item that lacks the key.
                let place = match index.parse::<usize>() {
                    Ok(index) => index,
                    Err(_) if index.is_empty() => {
                        self.unindexed.insert(root.to_owned());
                        list.iter()
                            .position(|item| item.get(key).is_none())
                            .unwrap_or(list.len())
                    }
                    Err(_) => return Err(invalid("must be a field of a list")),
                };
                if place > list.len() {
                    return Err(invalid("must follow those before it"));
                }
                if place >= ADAPTERS_MAX {
                    return Err(invalid(&format!("at most {ADAPTERS_MAX} may be given")));
                }
                if place == list.len() {
                    list.push(json!({}));
                }
                let item = list[place].as_object_mut().ok_or_else(given_twice)?;
                item.insert(key.to_owned(), scalar(key, text));
            }
            _ => return Err(invalid("is nested too deep")),
        }
        Ok(())
    }

    /// Items that came without an index must be alike: clients may send one key of all items before the next key, so that
    /// nobody can tell which item lacks one (INV-10: no adapter at a weight that was not asked for).
    pub(super) fn into_json(self) -> Result<String, ApiError> {
        for name in &self.unindexed {
            let items = self.object.get(name).and_then(Value::as_array);
            let mut keys = items.into_iter().flatten().map(keys_of);
            let first = keys.next();
            if keys.any(|keys| Some(keys) != first) {
                let detail = "must have the same fields in each item; or give indices, or JSON";
                return Err(invalid(name, detail));
            }
        }
        Ok(Value::Object(self.object).to_string())
    }
}

fn keys_of(item: &Value) -> BTreeSet<&String> {
    item.as_object().into_iter().flat_map(Map::keys).collect()
}

fn invalid(name: &str, detail: &str) -> ApiError {
    ApiError::field(format!("?{name}"), "invalid", detail)
}

/// A form knows text only.
fn scalar(name: &str, text: &str) -> Value {
    if NUMBERS.contains(&name)
        && let Ok(number) = serde_json::from_str::<serde_json::Number>(text.trim())
    {
        return Value::Number(number);
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(fields: &[(&str, &str)]) -> Result<Value, ApiError> {
        let mut read = Fields::default();
        for (name, text) in fields {
            read.put(name, text)?;
        }
        Ok(serde_json::from_str(&read.into_json()?).unwrap())
    }

    #[test]
    fn lists_are_read_in_either_order_of_keys() {
        let expected = json!({"adapters": [{"id": "a", "weight": 0.5}, {"id": "b", "weight": 2}]});
        let by_item = [
            ("adapters[][id]", "a"),
            ("adapters[][weight]", "0.5"),
            ("adapters[][id]", "b"),
            ("adapters[][weight]", "2"),
        ];
        let by_key = [by_item[0], by_item[2], by_item[1], by_item[3]];
        assert_eq!(json(&by_item).unwrap(), expected);
        assert_eq!(json(&by_key).unwrap(), expected);
    }

    #[test]
    fn no_adapter_gets_the_weight_of_another() {
        let refused = |fields: &[(&str, &str)], pointer: &str| match json(fields) {
            Err(ApiError::ValidationFailed(errors)) => assert_eq!(errors[0].pointer, pointer),
            other => panic!("{fields:?}: {other:?}"),
        };
        let (a, b) = (("adapters[][id]", "a"), ("adapters[][id]", "b"));
        refused(&[a, b, ("adapters[][weight]", "0.5")], "?adapters");
        refused(
            &[("adapters", r#"["x"]"#), ("adapters[0][id]", "y")],
            "?adapters[0][id]",
        );
        refused(&[a; ADAPTERS_MAX + 1], "?adapters[][id]");
        // Each says which item it means.
        let indexed = [
            ("adapters[0][id]", "a"),
            ("adapters[1][id]", "b"),
            ("adapters[1][weight]", "0.5"),
        ];
        let expected = json!({"adapters": [{"id": "a"}, {"id": "b", "weight": 0.5}]});
        assert_eq!(json(&indexed).unwrap(), expected);
        assert_eq!(
            json(&[a, b]).unwrap(),
            json!({"adapters": [{"id": "a"}, {"id": "b"}]})
        );
    }
}

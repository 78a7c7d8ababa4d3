use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::super::ConfigError;
use super::super::fields::{self, Fields};

/// CLIP's vocabulary and merges are 1.1 and 0.5 MB, both together as `tokenizer.json` 2 to 4 MB.
const VOCABULARY_BYTES_MAX: u64 = 16 << 20;
/// Begins the comment line of a `merges.txt`.
const MERGES_VERSION: &str = "#version";

/// Both in one, and more, as transformers 5 saves it.
pub(super) const TOKENIZER_FILE: &str = "tokenizer/tokenizer.json";

/// `tokenizer/vocab.json` and `tokenizer/merges.txt`, or what stands for them in a `tokenizer/tokenizer.json`.
#[derive(Clone, PartialEq, Eq)]
pub struct Vocabulary {
    pub tokens: BTreeMap<String, u32>,
    /// Pairs of tokens that become one, the first pair first.
    pub merges: Vec<(String, String)>,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, merges) = (self.tokens.len(), self.merges.len());
        write!(f, "Vocabulary({tokens} tokens, {merges} merges)")
    }
}

impl Vocabulary {
    pub const TOKENS_FILE: &str = "tokenizer/vocab.json";
    pub const MERGES_FILE: &str = "tokenizer/merges.txt";

    /// A token whose number is not under `vocab_size`.
    pub(super) fn first_beyond(&self, vocab_size: usize) -> Option<(&str, u32)> {
        let mut tokens = self.tokens.iter();
        let (token, id) = tokens.find(|(_, id)| **id as usize >= vocab_size)?;
        Some((token, *id))
    }

    /// `tokenizer_json` is asked where the two files are not there.
    pub(super) fn read(dir: &Path, tokenizer_json: Option<&Value>) -> Result<Self, ConfigError> {
        let file = Self::TOKENS_FILE;
        if let Some(json) = tokenizer_json.filter(|_| !dir.join(file).exists()) {
            return Self::in_tokenizer_json(json);
        }
        let read = |file| fields::read_bytes(dir, file, VOCABULARY_BYTES_MAX);
        let tokens = tokens(file, &fields::parse_json(file, &read(file)?)?)?;
        let merges = merges(&read(Self::MERGES_FILE)?, &tokens)?;
        Ok(Self { tokens, merges })
    }

    fn in_tokenizer_json(json: &Value) -> Result<Self, ConfigError> {
        let refuse =
            |field: &str, reason: String| ConfigError::field(TOKENIZER_FILE, field, reason);
        let model = json.get("model").unwrap_or(&Value::Null);
        let fields = Fields::new(TOKENIZER_FILE, model)?;
        fields.require_text("type", "BPE", "")?;
        fields.require_text("end_of_word_suffix", "</w>", "")?;
        let vocab = fields.get("vocab").unwrap_or(&Value::Null);
        let tokens = tokens(TOKENIZER_FILE, vocab)?;
        let pairs = fields.get("merges").and_then(Value::as_array);
        let pairs = pairs.ok_or_else(|| refuse("merges", "must be a list".to_owned()))?;
        let merge = |(i, pair): (usize, &Value)| {
            let refuse = |reason: &str| refuse(&format!("merges[{i}]"), reason.to_owned());
            let pair = match pair {
                Value::String(pair) => pair.split_once(' '),
                Value::Array(pair) => match pair.as_slice() {
                    [a, b] => a.as_str().zip(b.as_str()),
                    _ => None,
                },
                _ => None,
            };
            let (a, b) = pair.ok_or_else(|| refuse("must be two tokens"))?;
            match missing(&tokens, a, b) {
                None => Ok((a.to_owned(), b.to_owned())),
                Some(token) => Err(refuse(&format!("{token:?} must be in vocab"))),
            }
        };
        let merges = pairs.iter().enumerate().map(merge);
        let merges = merges.collect::<Result<_, _>>()?;
        Ok(Self { tokens, merges })
    }
}

/// The `tokenizer.json` of a folder that has one.
pub(super) fn tokenizer_json(dir: &Path) -> Result<Option<Value>, ConfigError> {
    if !dir.join(TOKENIZER_FILE).exists() {
        return Ok(None);
    }
    let bytes = fields::read_bytes(dir, TOKENIZER_FILE, VOCABULARY_BYTES_MAX)?;
    fields::parse_json(TOKENIZER_FILE, &bytes).map(Some)
}

/// Which of two tokens, and of what becomes of them, the vocabulary lacks.
fn missing(tokens: &BTreeMap<String, u32>, a: &str, b: &str) -> Option<String> {
    let mut needed = [a.to_owned(), b.to_owned(), format!("{a}{b}")].into_iter();
    needed.find(|token| !tokens.contains_key(token))
}

pub(super) fn tokens(file: &str, json: &Value) -> Result<BTreeMap<String, u32>, ConfigError> {
    let object = json.as_object().ok_or_else(|| ConfigError::NotAnObject {
        file: file.to_owned(),
    })?;
    let token = |(token, id): (&String, &Value)| {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let refuse = || {
            let reason = format!("must be a whole number (got {id})");
            ConfigError::field(file, &format!("{token:?}"), reason)
        };
        Ok((token.clone(), number.ok_or_else(refuse)?))
    };
    object.iter().map(token).collect()
}

/// One pair a line. Both tokens, and what becomes of them, must be in the vocabulary.
fn merges(
    bytes: &[u8],
    tokens: &BTreeMap<String, u32>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let refuse = |line: usize, reason: String| {
        ConfigError::field(
            Vocabulary::MERGES_FILE,
            &format!("line {}", line + 1),
            reason,
        )
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n');
        refuse(line.count(), "must be UTF-8".to_owned())
    })?;
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with(MERGES_VERSION) {
            continue;
        }
        let Some((a, b)) = line.split_once(' ').filter(|(_, b)| !b.contains(' ')) else {
            return Err(refuse(
                i,
                "must be two tokens with a space between".to_owned(),
            ));
        };
        if let Some(token) = missing(tokens, a, b) {
            let reason = format!("{token:?} must be in {}", Vocabulary::TOKENS_FILE);
            return Err(refuse(i, reason));
        }
        merges.push((a.to_owned(), b.to_owned()));
    }
    Ok(merges)
}

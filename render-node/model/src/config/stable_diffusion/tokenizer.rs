use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::super::ConfigError;
use super::super::fields::{self, Fields};

/// CLIP's vocabulary and merges are 1.1 and 0.5 MB.
const VOCABULARY_BYTES_MAX: u64 = 16 << 20;
/// Begins the comment line of a `merges.txt`.
const MERGES_VERSION: &str = "#version";
const MERGES_HEADER: &str = "#version: 0.2";
/// What older files write where the tokenizer knows no length.
const LENGTH_MAX: usize = 1 << 20;
/// Begin and end of a text.
const LENGTH_MIN: usize = 2;

/// `tokenizer/`: CLIP's byte-level byte-pair encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Every text becomes so many tokens: longer ones are cut, shorter ones padded.
    pub model_max_length: usize,
    pub bos_token: SpecialToken,
    pub eos_token: SpecialToken,
    pub unk_token: SpecialToken,
    /// The same as `eos_token` in Stable Diffusion 1.x, `!` in 2.x.
    pub pad_token: SpecialToken,
    pub vocabulary: Vocabulary,
}

/// A token that is looked for in a text before anything is split; the switches are those of the crate `tokenizers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    pub content: String,
    /// Looked for in the normalised text, so also where a text writes it in capitals.
    pub normalized: bool,
    /// Takes the spaces before it.
    pub lstrip: bool,
    /// Takes the spaces after it.
    pub rstrip: bool,
    pub single_word: bool,
}

/// `tokenizer/vocab.json` and `tokenizer/merges.txt`.
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

impl TokenizerConfig {
    pub const FILE: &str = "tokenizer/tokenizer_config.json";
    /// Older folders name the special tokens here; newer ones repeat them.
    pub const SPECIAL_TOKENS_FILE: &str = "tokenizer/special_tokens_map.json";

    /// Where older folders keep words that were added to the vocabulary.
    const ADDED_TOKENS_FILE: &str = "tokenizer/added_tokens.json";

    /// Reads the files below `dir`.
    ///
    /// Special tokens as in transformers 5: `special_tokens_map.json` is asked first, unless the config lists an
    /// `added_tokens_decoder`; then the config; then CLIP's own.
    pub(super) fn read(dir: &Path) -> Result<Self, ConfigError> {
        let config = fields::read_json(dir, Self::FILE)?;
        let fields = Fields::new(Self::FILE, &config)?;
        fields.require_class("tokenizer_class", &["CLIPTokenizer", "CLIPTokenizerFast"])?;
        fields.require_flag("add_prefix_space", false, false)?;

        let added = AddedTokens::read(&fields)?;
        let special = match added.is_none() && dir.join(Self::SPECIAL_TOKENS_FILE).exists() {
            true => fields::read_json(dir, Self::SPECIAL_TOKENS_FILE)?,
            false => json!({}),
        };
        let special = Fields::new(Self::SPECIAL_TOKENS_FILE, &special)?;
        for fields in [&fields, &special] {
            fields.require_empty("additional_special_tokens")?;
            fields.require_empty("extra_special_tokens")?;
        }
        let vocabulary = Vocabulary::read(dir)?;
        let added = added.unwrap_or_default();
        let token = |name: &str, default: &str| -> Result<SpecialToken, ConfigError> {
            let (file, token) = match SpecialToken::read(&special, name)? {
                Some(token) => (Self::SPECIAL_TOKENS_FILE, token),
                None => {
                    let token = SpecialToken::read(&fields, name)?;
                    let token = token.unwrap_or_else(|| SpecialToken::plain(default));
                    (Self::FILE, added.settings_of(token))
                }
            };
            match vocabulary.tokens.contains_key(&token.content) {
                true => Ok(token),
                false => {
                    let reason = format!(
                        "must be in {} (got {:?})",
                        Vocabulary::TOKENS_FILE,
                        token.content
                    );
                    Err(ConfigError::field(file, name, reason))
                }
            }
        };
        let (begin, end) = ("<|startoftext|>", "<|endoftext|>");
        let config = Self {
            model_max_length: model_max_length(&fields)?,
            bos_token: token("bos_token", begin)?,
            eos_token: token("eos_token", end)?,
            unk_token: token("unk_token", end)?,
            pad_token: token("pad_token", end)?,
            vocabulary,
        };
        let special = config.special_tokens();
        let is_special = |content: &str| special.iter().any(|token| token.content == content);
        let refuse = |file: &str, field: &str, content: &str| {
            let reason = format!("only special tokens may be added (got {content:?})");
            Err(ConfigError::field(file, field, reason))
        };
        if let Some(token) = added.0.iter().find(|token| !is_special(&token.content)) {
            return refuse(Self::FILE, ADDED_TOKENS, &token.content);
        }
        if dir.join(Self::ADDED_TOKENS_FILE).exists() {
            let json = fields::read_json(dir, Self::ADDED_TOKENS_FILE)?;
            let mut added = tokens(Self::ADDED_TOKENS_FILE, &json)?.into_keys();
            if let Some(token) = added.find(|token| !is_special(token)) {
                return refuse(Self::ADDED_TOKENS_FILE, &format!("{token:?}"), &token);
            }
        }
        Ok(config)
    }

    /// Begin, end, unknown and padding. Where two have the same text, the first one's switches hold.
    pub fn special_tokens(&self) -> [&SpecialToken; 4] {
        [
            &self.bos_token,
            &self.eos_token,
            &self.unk_token,
            &self.pad_token,
        ]
    }

    pub(super) fn to_files(&self) -> Vec<(&'static str, String)> {
        let config = json!({
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.model_max_length,
            "bos_token": self.bos_token.to_json(),
            "eos_token": self.eos_token.to_json(),
            "unk_token": self.unk_token.to_json(),
            "pad_token": self.pad_token.to_json(),
        });
        let merges = self.vocabulary.merges.iter();
        let lines: Vec<String> = merges.map(|(a, b)| format!("{a} {b}\n")).collect();
        vec![
            (Self::FILE, format!("{config:#}\n")),
            (
                Vocabulary::TOKENS_FILE,
                json!(self.vocabulary.tokens).to_string(),
            ),
            (
                Vocabulary::MERGES_FILE,
                format!("{MERGES_HEADER}\n{}", lines.concat()),
            ),
        ]
    }
}

impl SpecialToken {
    /// As it is when a file gives nothing but its text.
    pub fn plain(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            normalized: false,
            lstrip: false,
            rstrip: false,
            single_word: false,
        }
    }

    /// Written as text, or as an object with its `content` and switches.
    fn read(fields: &Fields<'_>, name: &str) -> Result<Option<Self>, ConfigError> {
        let Some(value) = fields.get(name) else {
            return Ok(None);
        };
        let token = value.as_str().map(Self::plain);
        let token = token.or_else(|| Self::from_object(value));
        token.map(Some).ok_or_else(|| {
            let reason = format!("must be text or have a \"content\" (got {value})");
            fields.refuse(name, reason)
        })
    }

    fn from_object(value: &Value) -> Option<Self> {
        let switch = |name| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        Some(Self {
            content: value.get("content")?.as_str()?.to_owned(),
            normalized: switch("normalized"),
            lstrip: switch("lstrip"),
            rstrip: switch("rstrip"),
            single_word: switch("single_word"),
        })
    }

    fn to_json(&self) -> Value {
        if *self == Self::plain(&self.content) {
            return json!(self.content);
        }
        json!({
            "__type": "AddedToken",
            "content": self.content,
            "normalized": self.normalized,
            "lstrip": self.lstrip,
            "rstrip": self.rstrip,
            "single_word": self.single_word,
        })
    }
}

/// What newer configs list beside the special tokens' texts: the switches of each.
const ADDED_TOKENS: &str = "added_tokens_decoder";

#[derive(Default)]
struct AddedTokens(Vec<SpecialToken>);

impl AddedTokens {
    fn read(fields: &Fields<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(value) = fields.get(ADDED_TOKENS) else {
            return Ok(None);
        };
        let tokens = value
            .as_object()
            .and_then(|tokens| tokens.values().map(SpecialToken::from_object).collect());
        tokens.map(|tokens| Some(Self(tokens))).ok_or_else(|| {
            let reason = "must be an object of objects with a \"content\" each";
            fields.refuse(ADDED_TOKENS, reason)
        })
    }

    /// The token with the switches that are listed for its text.
    fn settings_of(&self, token: SpecialToken) -> SpecialToken {
        let listed = self.0.iter().find(|other| other.content == token.content);
        listed.cloned().unwrap_or(token)
    }
}

fn model_max_length(fields: &Fields<'_>) -> Result<usize, ConfigError> {
    let Some(value) = fields.get("model_max_length") else {
        return Err(fields.refuse("model_max_length", "must be given; CLIP's is 77"));
    };
    match value
        .as_u64()
        .and_then(|length| usize::try_from(length).ok())
    {
        Some(length @ LENGTH_MIN..=LENGTH_MAX) => Ok(length),
        _ => {
            let reason =
                format!("must be a whole number in {LENGTH_MIN}..={LENGTH_MAX} (got {value})");
            Err(fields.refuse("model_max_length", reason))
        }
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

    fn read(dir: &Path) -> Result<Self, ConfigError> {
        let read = |file| fields::read_bytes(dir, file, VOCABULARY_BYTES_MAX);
        let file = Self::TOKENS_FILE;
        let tokens = tokens(file, &fields::parse_json(file, &read(file)?)?)?;
        let merges = merges(&read(Self::MERGES_FILE)?, &tokens)?;
        Ok(Self { tokens, merges })
    }
}

fn tokens(file: &str, json: &Value) -> Result<BTreeMap<String, u32>, ConfigError> {
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
        for token in [a, b, &format!("{a}{b}")] {
            if !tokens.contains_key(token) {
                let reason = format!("{token:?} must be in {}", Vocabulary::TOKENS_FILE);
                return Err(refuse(i, reason));
            }
        }
        merges.push((a.to_owned(), b.to_owned()));
    }
    Ok(merges)
}

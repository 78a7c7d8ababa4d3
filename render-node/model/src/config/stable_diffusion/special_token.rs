use serde_json::{Value, json};

use super::super::ConfigError;
use super::super::fields::Fields;
use super::TokenizerConfig;

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
    pub(super) fn read(fields: &Fields<'_>, name: &str) -> Result<Option<Self>, ConfigError> {
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

    pub(super) fn to_json(&self) -> Value {
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

/// Tokens beside the vocabulary, with their switches.
#[derive(Default)]
pub(super) struct AddedTokens {
    pub(super) file: &'static str,
    pub(super) field: &'static str,
    pub(super) tokens: Vec<SpecialToken>,
}

impl AddedTokens {
    /// Of a `tokenizer_config.json`, by number; `None` in older ones.
    pub(super) fn in_config(fields: &Fields<'_>) -> Result<Option<Self>, ConfigError> {
        let field = "added_tokens_decoder";
        let Some(value) = fields.get(field) else {
            return Ok(None);
        };
        let tokens = value.as_object().map(|tokens| tokens.values().collect());
        Self::new(TokenizerConfig::FILE, field, tokens).map(Some)
    }

    /// Of a `tokenizer.json`, as a list.
    pub(super) fn in_tokenizer_json(file: &'static str, json: &Value) -> Result<Self, ConfigError> {
        let field = "added_tokens";
        let tokens = json.get(field).and_then(Value::as_array);
        Self::new(file, field, tokens.map(|tokens| tokens.iter().collect()))
    }

    fn new(
        file: &'static str,
        field: &'static str,
        tokens: Option<Vec<&Value>>,
    ) -> Result<Self, ConfigError> {
        let tokens = tokens.and_then(|tokens| {
            let tokens = tokens.into_iter();
            tokens.map(SpecialToken::from_object).collect()
        });
        let refuse =
            || ConfigError::field(file, field, "must hold objects with a \"content\" each");
        Ok(Self {
            file,
            field,
            tokens: tokens.ok_or_else(refuse)?,
        })
    }

    /// The token with the switches that are listed for its text.
    pub(super) fn settings_of(&self, token: SpecialToken) -> SpecialToken {
        let mut listed = self.tokens.iter();
        let listed = listed.find(|other| other.content == token.content);
        listed.cloned().unwrap_or(token)
    }
}

use std::path::Path;

use serde_json::json;

use super::super::ConfigError;
use super::super::fields::{self, Fields};
use super::special_token::AddedTokens;
use super::vocabulary::{self, TOKENIZER_FILE};
use super::{SpecialToken, Vocabulary};

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

impl TokenizerConfig {
    pub const FILE: &str = "tokenizer/tokenizer_config.json";
    /// Older folders name the special tokens here; newer ones repeat them.
    pub const SPECIAL_TOKENS_FILE: &str = "tokenizer/special_tokens_map.json";

    /// Where older folders keep words that were added to the vocabulary.
    const ADDED_TOKENS_FILE: &str = "tokenizer/added_tokens.json";

    /// Reads the files below `dir`.
    ///
    /// The vocabulary lies in files of its own, or in a `tokenizer.json` as transformers 5 saves it. Special tokens as there:
    /// `special_tokens_map.json` is asked first, unless the config lists an `added_tokens_decoder`; then the config; then
    /// CLIP's own. Their switches are those of a list of added tokens, where there is one.
    pub(super) fn read(dir: &Path) -> Result<Self, ConfigError> {
        let config = fields::read_json(dir, Self::FILE)?;
        let fields = Fields::new(Self::FILE, &config)?;
        fields.require_class("tokenizer_class", &["CLIPTokenizer", "CLIPTokenizerFast"])?;
        fields.require_flag("add_prefix_space", false, false)?;

        let in_config = AddedTokens::in_config(&fields)?;
        let special = match in_config.is_none() && dir.join(Self::SPECIAL_TOKENS_FILE).exists() {
            true => fields::read_json(dir, Self::SPECIAL_TOKENS_FILE)?,
            false => json!({}),
        };
        let special = Fields::new(Self::SPECIAL_TOKENS_FILE, &special)?;
        for fields in [&fields, &special] {
            fields.require_empty("additional_special_tokens")?;
            fields.require_empty("extra_special_tokens")?;
        }
        let tokenizer_json = vocabulary::tokenizer_json(dir)?;
        let vocabulary = Vocabulary::read(dir, tokenizer_json.as_ref())?;
        let added = match (in_config, &tokenizer_json) {
            (Some(added), _) => added,
            (None, Some(json)) => AddedTokens::in_tokenizer_json(TOKENIZER_FILE, json)?,
            (None, None) => AddedTokens::default(),
        };
        let token = |name: &str, default: &str| -> Result<SpecialToken, ConfigError> {
            let (file, token) = match SpecialToken::read(&special, name)? {
                Some(token) => (Self::SPECIAL_TOKENS_FILE, token),
                None => {
                    let token = SpecialToken::read(&fields, name)?;
                    let token = token.unwrap_or_else(|| SpecialToken::plain(default));
                    (Self::FILE, token)
                }
            };
            let token = added.settings_of(token);
            match vocabulary.tokens.contains_key(&token.content) {
                true => Ok(token),
                false => {
                    let reason = format!("must be in the vocabulary (got {:?})", token.content);
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
        if let Some(token) = added
            .tokens
            .iter()
            .find(|token| !is_special(&token.content))
        {
            return refuse(added.file, added.field, &token.content);
        }
        if dir.join(Self::ADDED_TOKENS_FILE).exists() {
            let json = fields::read_json(dir, Self::ADDED_TOKENS_FILE)?;
            let mut added = vocabulary::tokens(Self::ADDED_TOKENS_FILE, &json)?.into_keys();
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

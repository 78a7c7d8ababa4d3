use std::fmt;

use flowai_model::config::stable_diffusion::{SpecialToken, TokenizerConfig};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::error::{EngineError, Result};

/// A run of this becomes one space.
const SPACES: &str = r"\s+";
/// What CLIP takes for a word: a special token, an English ending, letters, one digit, or anything else but spaces.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const END_OF_WORD: &str = "</w>";

/// CLIP's byte-level byte-pair encoding, as transformers' `CLIPTokenizer` builds it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    length: usize,
    begin: u32,
    end: u32,
    padding: u32,
}

/// A text as the text encoder reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Begin, text, end, padding: as many as the model's length.
    pub ids: Vec<u32>,
    /// Tokens of the text that did not fit and were cut off its end.
    pub cut: usize,
}

impl Tokenizer {
    /// Errors: a vocabulary that is none, which a checked folder does not have.
    pub fn new(config: &TokenizerConfig) -> Result<Self> {
        let mut inner = build(config).map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        let tokens = config.special_tokens().map(added_token);
        inner
            .add_special_tokens(tokens)
            .map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        let id = |token: &SpecialToken| {
            let missing = || EngineError::Tokenizer(format!("{:?} has no number", token.content));
            inner.token_to_id(&token.content).ok_or_else(missing)
        };
        Ok(Self {
            length: config.model_max_length,
            begin: id(&config.bos_token)?,
            end: id(&config.eos_token)?,
            padding: id(&config.pad_token)?,
            inner,
        })
    }

    /// The tokens of a text, cut or padded to the model's length.
    ///
    /// Errors: a text that the crate `tokenizers` refuses; none is known.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        let words = encoding.get_ids();
        let kept = words.len().min(self.length - 2);
        let mut ids = vec![self.begin];
        ids.extend(&words[..kept]);
        ids.push(self.end);
        ids.resize(self.length, self.padding);
        let cut = words.len() - kept;
        Ok(Tokens { ids, cut })
    }
}

fn build(config: &TokenizerConfig) -> tokenizers::Result<tokenizers::Tokenizer> {
    let vocabulary = config.vocabulary.clone();
    let tokens: Vocab = vocabulary.tokens.into_iter().collect();
    let model = BPE::builder()
        .vocab_and_merges(tokens, vocabulary.merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix(END_OF_WORD.to_owned())
        .unk_token(config.unk_token.content.clone())
        .build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let spaces = Replace::new(ReplacePattern::Regex(SPACES.to_owned()), " ")?;
    let normalizers = Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()]);
    tokenizer.with_normalizer(Some(normalizers))?;
    let words = SplitPattern::Regex(WORDS.to_owned());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true)?;
    // No space before the first word, offsets of no interest, and words are split already but for the crate's own pattern,
    // which transformers leaves on.
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    Ok(tokenizer)
}

fn added_token(token: &SpecialToken) -> AddedToken {
    AddedToken::from(token.content.clone(), true)
        .normalized(token.normalized)
        .lstrip(token.lstrip)
        .rstrip(token.rstrip)
        .single_word(token.single_word)
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.inner.get_vocab_size(true))
    }
}

/// Hides what was asked for: tokens are the prompt in numbers.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} of them, {} cut)", self.ids.len(), self.cut)
    }
}

use crate::config::stable_diffusion::Vocabulary;

/// Pairs that become one token: enough that words of several tokens, of one, and the order of pairs all occur.
const MERGES: [(&str, &str); 5] = [
    ("e", "r</w>"),
    ("i", "n"),
    ("in", "g</w>"),
    ("o", "f</w>"),
    ("a", "t"),
];

/// A vocabulary in CLIP's form without its words: every byte, alone and at a word's end, a few pairs, begin and end.
///
/// 519 tokens.
pub fn vocabulary() -> Vocabulary {
    let bytes: Vec<String> = (0..=u8::MAX).map(|byte| symbol(byte).to_string()).collect();
    let ends = bytes.iter().map(|byte| format!("{byte}</w>"));
    let pairs = MERGES.iter().map(|(a, b)| format!("{a}{b}"));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let tokens = bytes.iter().cloned().chain(ends).chain(pairs);
    Vocabulary {
        tokens: tokens.chain(special).zip(0..).collect(),
        merges: MERGES
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
    }
}

/// The character that stands for a byte in byte-level encodings: itself where it is visible in Latin-1, else one from U+0100
/// on (OpenAI's `bytes_to_unicode`).
fn symbol(byte: u8) -> char {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !is_visible(*byte)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_symbol() {
        let vocabulary = vocabulary();
        assert_eq!(vocabulary.tokens.len(), 519);
        assert!(!vocabulary.tokens.contains_key("\u{fffd}"));
        // As in GPT-2's and CLIP's vocabularies.
        for (byte, expected) in [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'a', 'a'), (0xad, 'Ń')] {
            assert_eq!(symbol(byte), expected);
        }
    }
}

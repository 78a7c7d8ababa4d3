//! What happened, as a number that two runs of one seed share, and in words for whoever reads a failure.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Lines that are kept: a failure is read from its end.
const LINES_MAX: usize = 80;
/// Of one line.
const CHARS_MAX: usize = 200;

#[derive(Debug, Default)]
pub(super) struct Trace {
    hasher: DefaultHasher,
    /// `None` while nobody reads: words cost more than the world itself.
    lines: Option<VecDeque<String>>,
}

impl Trace {
    pub(super) fn in_words() -> Self {
        Self {
            lines: Some(VecDeque::new()),
            ..Self::default()
        }
    }

    /// Takes a happening in. `words` is asked only when somebody reads them; `None` for what tells a reader nothing.
    pub(super) fn note<W: Into<Option<String>>>(
        &mut self,
        now_ms: u64,
        what: impl Hash,
        words: impl FnOnce() -> W,
    ) {
        (now_ms, what).hash(&mut self.hasher);
        let Some(lines) = &mut self.lines else {
            return;
        };
        let Some(words) = words().into() else {
            return;
        };
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        let mut line = format!("{:>10.3} s  {}", now_ms as f64 / 1e3, words);
        if let Some((cut, _)) = line.char_indices().nth(CHARS_MAX) {
            line.truncate(cut);
        }
        lines.push_back(line);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default().into()
    }
}

//! Errors as people read them.

use std::error::Error;

/// An error and its causes, outermost first, joined by `: `. A cause whose words the text before ends with is not said again: many errors
/// say their cause themselves.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("writing a file: {source}")]
    struct SaysIt {
        source: io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the start failed")]
    struct SaysNothing {
        source: SaysIt,
    }

    #[test]
    fn a_cause_is_said_once() {
        let source = io::Error::other("no space");
        let error = SaysNothing {
            source: SaysIt { source },
        };
        assert_eq!(
            with_causes(&error),
            "the start failed: writing a file: no space"
        );
    }
}

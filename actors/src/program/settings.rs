//! Settings as every program reads them: a flag, an environment variable of the same name, or a file that `NAME_FILE` names. All are text
//! until they are parsed, so that each is refused in the same words.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use super::secrets::{SecretError, optional_secret};

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    #[error("{name} must be {expected} (got {got:?})")]
    Invalid {
        name: &'static str,
        expected: String,
        got: String,
    },
    #[error(transparent)]
    NotGiven(#[from] SecretError),
}

/// Where settings come from. `env` looks a variable up.
#[derive(Debug, Clone, Copy)]
pub struct Source<E> {
    env: E,
}

impl<E: Fn(&str) -> Option<String>> Source<E> {
    pub const fn new(env: E) -> Self {
        Self { env }
    }

    /// # Errors
    /// As [`Self::optional`]; not given is one.
    pub fn required(
        &self,
        flag: Option<String>,
        name: &'static str,
    ) -> Result<Value, SettingError> {
        let given = self.optional(flag, name)?;
        given.ok_or(SecretError::Missing(name).into())
    }

    /// # Errors
    /// As [`Self::optional`].
    pub fn or(
        &self,
        flag: Option<String>,
        name: &'static str,
        default: &str,
    ) -> Result<Value, SettingError> {
        let default = || Value {
            name,
            text: default.to_owned(),
        };
        Ok(self.optional(flag, name)?.unwrap_or_else(default))
    }

    /// The flag, else what the environment says. An empty text is no setting, as in the environments that compose files make.
    ///
    /// # Errors
    /// A variable and its `_FILE` at once, a file that cannot be read.
    pub fn optional(
        &self,
        flag: Option<String>,
        name: &'static str,
    ) -> Result<Option<Value>, SettingError> {
        let text = match flag {
            Some(text) => Some(text).filter(|text| !text.is_empty()),
            None => optional_secret(&self.env, name)?,
        };
        Ok(text.map(|text| Value { name, text }))
    }
}

/// A setting's text and the name under which it is known.
#[derive(Clone)]
pub struct Value {
    name: &'static str,
    text: String,
}

/// It may be a secret.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Value {
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn into_text(self) -> String {
        self.text
    }

    pub fn invalid(&self, expected: impl Display) -> SettingError {
        SettingError::Invalid {
            name: self.name,
            expected: expected.to_string(),
            got: self.text.clone(),
        }
    }

    /// # Errors
    /// What is not as `expected`.
    pub fn parsed<T: FromStr>(&self, expected: &str) -> Result<T, SettingError> {
        self.text.parse().map_err(|_| self.invalid(expected))
    }

    /// # Errors
    /// What is no number of the range.
    pub fn number<T>(&self, range: RangeInclusive<T>) -> Result<T, SettingError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let number = self.text.parse().ok().filter(|n| range.contains(n));
        let expected = || format!("a number in {}..={}", range.start(), range.end());
        number.ok_or_else(|| self.invalid(expected()))
    }

    /// Several addresses, host:port each, separated by commas.
    ///
    /// # Errors
    /// Anything else among them.
    pub fn addresses(&self) -> Result<Vec<String>, SettingError> {
        let parts = self.text.split(',');
        let addresses: Vec<String> = parts.map(|address| address.trim().to_owned()).collect();
        if addresses.iter().all(|address| is_address(address)) {
            Ok(addresses)
        } else {
            Err(self.invalid("host:port, several separated by commas"))
        }
    }
}

impl From<Value> for PathBuf {
    fn from(value: Value) -> Self {
        value.text.into()
    }
}

/// Whether it is host:port.
pub fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        let read = |text: &str| {
            let source = Source::new(|_: &str| Some(text.to_owned()));
            source
                .optional(Some(text.to_owned()), "A")
                .unwrap()
                .unwrap()
                .addresses()
        };
        assert_eq!(read("a:1, [::1]:2").unwrap(), ["a:1", "[::1]:2"]);
        for wrong in ["a", ":1", "a:", "a:70000", "a:1,,b:2"] {
            let refused = read(wrong).unwrap_err().to_string();
            assert!(refused.starts_with("A must be host:port"), "{refused}");
        }
    }

    #[test]
    fn a_flag_wins_and_an_empty_text_is_no_setting() {
        let source = Source::new(|name: &str| (name == "A").then(|| "variable".to_owned()));
        let read = |flag: Option<&str>, name| {
            let value = source.optional(flag.map(str::to_owned), name).unwrap();
            value.map(Value::into_text)
        };
        assert_eq!(read(Some("flag"), "A").as_deref(), Some("flag"));
        assert_eq!(read(None, "A").as_deref(), Some("variable"));
        assert_eq!((read(Some(""), "A"), read(None, "B")), (None, None));
    }
}

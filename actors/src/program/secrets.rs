//! Secrets come from the environment or from files, never from an argument list.

use std::fs;
use std::io;

/// A secret that is not there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{0} is missing; give it, or a file that holds it as {0}_FILE")]
    Missing(&'static str),
    #[error("{0} is given both as it is and as a file; give one")]
    Twice(&'static str),
    #[error("{name}_FILE: {path} cannot be read: {source}")]
    File {
        name: &'static str,
        path: String,
        source: io::Error,
    },
}

/// Reads `name`, or the file that `name` with `_FILE` names, without its last line end. `variable` looks a name up in the
/// environment. An empty one counts as not given.
///
/// # Errors
/// [`SecretError::Twice`], [`SecretError::File`].
pub fn optional_secret(
    variable: impl Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<Option<String>, SecretError> {
    let value = variable(name).filter(|value| !value.is_empty());
    let path = variable(&format!("{name}_FILE")).filter(|path| !path.is_empty());
    match (value, path) {
        (Some(_), Some(_)) => Err(SecretError::Twice(name)),
        (None, Some(path)) => {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(source) => return Err(SecretError::File { name, path, source }),
            };
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            Ok(Some(text).filter(|text| !text.is_empty()))
        }
        (value, None) => Ok(value),
    }
}

/// As [`optional_secret`]; not given is an error.
///
/// # Errors
/// [`SecretError`].
pub fn secret(
    variable: impl Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<String, SecretError> {
    optional_secret(variable, name)?.ok_or(SecretError::Missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "in a file\n").unwrap();
        let path = path.to_str().unwrap();
        let read = |value: &str, file: &str| {
            let (value, file) = (value.to_owned(), file.to_owned());
            secret(
                move |name| {
                    Some(if name == "A" {
                        value.clone()
                    } else {
                        file.clone()
                    })
                },
                "A",
            )
        };
        assert_eq!(read("as it is", "").unwrap(), "as it is");
        assert_eq!(read("", path).unwrap(), "in a file");
        assert!(matches!(read("", ""), Err(SecretError::Missing("A"))));
        assert!(matches!(read("x", path), Err(SecretError::Twice("A"))));
        let nowhere = read("", "/nowhere/at/all").unwrap_err().to_string();
        assert!(
            nowhere.starts_with("A_FILE: /nowhere/at/all cannot be read"),
            "{nowhere}"
        );
    }
}

//! Runs the program `flowai-svd` as whole processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// `flowai-svd animate` on one model with one picture.
pub(crate) struct Animate<'a> {
    pub(crate) model: &'a Path,
    pub(crate) image: &'a Path,
    /// Where its files go.
    pub(crate) dir: &'a Path,
}

impl Animate<'_> {
    /// Runs with further arguments; `spec` becomes a file of its own.
    pub(crate) fn output(&self, spec: &Value, arguments: &[&str]) -> Output {
        let spec_file = tempfile::NamedTempFile::new_in(self.dir).unwrap();
        fs::write(spec_file.path(), spec.to_string()).unwrap();
        Command::new(env!("CARGO_BIN_EXE_flowai-svd"))
            .current_dir(self.dir)
            .arg("animate")
            .arg("--model")
            .arg(self.model)
            .arg("--image")
            .arg(self.image)
            .arg("--spec")
            .arg(spec_file.path())
            .args(arguments)
            .output()
            .expect("the program must start")
    }

    /// Runs and expects success.
    pub(crate) fn run(&self, spec: &Value, arguments: &[&str]) {
        let output = self.output(spec, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} failed: {stderr}");
    }

    /// Runs, expects refusal and returns what it says.
    pub(crate) fn refusal(&self, spec: &Value, arguments: &[&str]) -> String {
        let output = self.output(spec, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?} was not refused: {stderr}"
        );
        stderr
    }

    /// The bytes of a file that a run wrote.
    pub(crate) fn bytes(&self, file: &str) -> Vec<u8> {
        let path: PathBuf = self.dir.join(file);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// `flowai-svd keyframe` on one model.
pub(crate) struct Keyframe<'a> {
    pub(crate) model: &'a Path,
    /// Where its files go.
    pub(crate) dir: &'a Path,
}

impl Keyframe<'_> {
    /// Runs with further arguments; `spec` becomes a file of its own.
    pub(crate) fn output(&self, spec: &Value, arguments: &[&str]) -> Output {
        let spec_file = tempfile::NamedTempFile::new_in(self.dir).unwrap();
        fs::write(spec_file.path(), spec.to_string()).unwrap();
        Command::new(env!("CARGO_BIN_EXE_flowai-svd"))
            .current_dir(self.dir)
            .arg("keyframe")
            .arg("--model")
            .arg(self.model)
            .arg("--spec")
            .arg(spec_file.path())
            .args(arguments)
            .output()
            .expect("the program must start")
    }

    /// Runs, expects success and returns the line of measurements.
    pub(crate) fn run(&self, spec: &Value, arguments: &[&str]) -> Value {
        let output = self.output(spec, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} failed: {stderr}");
        let line = stderr.lines().last().expect("a line of measurements");
        serde_json::from_str(line).unwrap()
    }

    /// Runs, expects refusal and returns what it says.
    pub(crate) fn refusal(&self, spec: &Value, arguments: &[&str]) -> String {
        let output = self.output(spec, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?} was not refused: {stderr}"
        );
        stderr
    }
}

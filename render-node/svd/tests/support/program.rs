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
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowai-svd"));
        command.arg("animate").arg("--image").arg(self.image);
        output(command, self.model, self.dir, spec, arguments)
    }

    /// Runs and expects success.
    pub(crate) fn run(&self, spec: &Value, arguments: &[&str]) {
        measurements(self.output(spec, arguments), arguments);
    }

    /// Runs, expects refusal and returns what it says.
    pub(crate) fn refusal(&self, spec: &Value, arguments: &[&str]) -> String {
        refused(self.output(spec, arguments), arguments)
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowai-svd"));
        command.arg("keyframe");
        output(command, self.model, self.dir, spec, arguments)
    }

    /// Runs, expects success and returns the line of measurements.
    pub(crate) fn run(&self, spec: &Value, arguments: &[&str]) -> Value {
        measurements(self.output(spec, arguments), arguments)
    }

    /// Runs, expects refusal and returns what it says.
    pub(crate) fn refusal(&self, spec: &Value, arguments: &[&str]) -> String {
        refused(self.output(spec, arguments), arguments)
    }
}

fn output(
    mut command: Command,
    model: &Path,
    dir: &Path,
    spec: &Value,
    arguments: &[&str],
) -> Output {
    let spec_file = tempfile::NamedTempFile::new_in(dir).unwrap();
    fs::write(spec_file.path(), spec.to_string()).unwrap();
    command
        .current_dir(dir)
        .arg("--model")
        .arg(model)
        .arg("--spec")
        .arg(spec_file.path())
        .args(arguments)
        .output()
        .expect("the program must start")
}

fn measurements(output: Output, arguments: &[&str]) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed: {stderr}");
    let line = stderr.lines().last().expect("a line of measurements");
    serde_json::from_str(line).unwrap()
}

fn refused(output: Output, arguments: &[&str]) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    assert_eq!(code, Some(1), "{arguments:?} was not refused: {stderr}");
    stderr
}

//! Programs that are measured: run to their end, with the line of figures that they print last.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// Errors: the program cannot be run, or fails; with what it said.
pub(crate) fn finish(mut command: Command) -> Result<Output> {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.display().to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}:\n{said}",
            program.display(),
            output.status
        );
    }
    Ok(output)
}

/// The JSON in the last line of stderr.
pub(crate) fn reported<T: DeserializeOwned>(output: &Output) -> Result<T> {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("no line of figures at the end of:\n{said}"))
}

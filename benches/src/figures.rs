//! The files that figures go into.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// The moment that a report begins with.
pub(crate) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Writes a report as JSON for people and programs.
pub(crate) fn write(path: &Path, report: &impl Serialize) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::write(path, text).with_context(|| path.display().to_string())
}

//! How a program tells that it is ready.

use std::fs;
use std::io;
use std::path::Path;

/// Writes `ready` as one line of JSON, whole or not at all: readers wait for the file to be there.
pub fn write_ready_file(path: &Path, ready: &serde_json::Value) -> io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, format!("{ready}\n"))?;
    fs::rename(&part, path)
}

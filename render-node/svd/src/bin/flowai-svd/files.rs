//! Files that are written at the end of a long run: whole or not at all, and known to have a place before it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Errors: a file that could not be written at the end of a long run.
pub(crate) fn check_target(option: &str, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    if file.is_dir() {
        bail!("{option} {}: is a folder; name a file", file.display());
    }
    let folder = file.parent().filter(|path| !path.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        bail!(
            "{option} {}: its folder does not exist; make it first",
            file.display()
        );
    }
    Ok(())
}

pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    // What is there and no file, a pipe or /dev/null, must not be replaced.
    let written = match fs::metadata(file) {
        Ok(there) if !there.is_file() => fs::write(file, bytes),
        Ok(_) => fs::canonicalize(file).and_then(|file| replace(&file, bytes)),
        Err(_) => replace(file, bytes),
    };
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Whole or not at all: whoever is stopped half-way leaves the file that was there before. A resumed run may thus write its
/// next checkpoint over the one it came from.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = part_of(file);
    let written = write_through(&part, bytes).and_then(|()| fs::rename(&part, file));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// In the same folder, because only there a rename is one step. The process id keeps runs apart that write one file.
fn part_of(file: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    file.with_file_name(name)
}

fn write_through(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(file)?;
    file.write_all(bytes)?;
    // The rename may reach the disk before the bytes do.
    file.sync_all()
}

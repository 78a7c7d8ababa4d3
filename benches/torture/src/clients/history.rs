//! What clients did and were told, as in Jepsen: each call is an `invoke`, then an `ok`, a `fail` (nothing happened) or an
//! `info` (nobody knows). One JSON object a line.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::workload::Class;
use crate::clock::At;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    Submit,
    Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Invoke,
    Ok,
    Fail,
    Info,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) at: At,
    pub(crate) client: usize,
    /// Of the wish; all its calls have the same.
    pub(crate) wish: usize,
    pub(crate) class: Class,
    pub(crate) call: Call,
    pub(crate) phase: Phase,
    /// The idempotency key of a submission.
    pub(crate) key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    /// What the wish asks for; each has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// Of HTTP; none where no answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
}

#[derive(Debug)]
pub(crate) struct History {
    file: Mutex<BufWriter<File>>,
}

impl History {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            file: Mutex::new(BufWriter::new(file)),
        })
    }

    pub(crate) fn write(&self, record: &Record) -> anyhow::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_writer(&mut *file, record)?;
        Ok(file.write_all(b"\n")?)
    }

    pub(crate) fn close(self) -> anyhow::Result<()> {
        let file = self.file.into_inner();
        Ok(file.unwrap_or_else(PoisonError::into_inner).flush()?)
    }
}

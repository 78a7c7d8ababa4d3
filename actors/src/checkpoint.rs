//! A run at a step boundary, kept so that another node can go on from it: what is said about it between the programs. Its bytes
//! go through the object store (INV-7). A checkpoint that is lost costs the steps since the one before, never the job.

use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, Generation, NodeId, Sha256};
use crate::limits::{
    CHECKPOINT_BYTES_MAX, CHECKPOINT_TEXT_CHARS_MAX, JOB_ASSIGNMENTS_MAX, STEPS_MAX,
};
use crate::manifest::Resumed;
use crate::messages::{AttemptRef, Source};

pub const CHECKPOINT_CONTENT_TYPE: &str = "application/octet-stream";

/// A checkpoint as its node tells it. Where it lies follows from the attempt and the step alone: a node names no keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFile {
    pub sha256: Sha256,
    /// 1..=`CHECKPOINT_BYTES_MAX`.
    pub bytes: u64,
    /// Steps of the clip that are done, 1..=steps.
    pub step: u32,
    pub steps: u32,
    /// Only there the bits of the clip stay equal (INV-11).
    pub device_class: String,
    /// Name and version of what can read it.
    pub engine: String,
    /// How the run that it was made of began, if that was from a checkpoint as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<Resumed>,
}

/// Why a node's word about a checkpoint is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint's {field} must be {expected} (got {got})")]
pub struct InvalidCheckpoint {
    pub field: &'static str,
    pub expected: String,
    pub got: String,
}

impl CheckpointFile {
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), InvalidCheckpoint> {
        let invalid = |field, expected: String, got: String| InvalidCheckpoint {
            field,
            expected,
            got,
        };
        let number = |field, got: u64, most: u64| match (1..=most).contains(&got) {
            true => Ok(()),
            false => Err(invalid(field, format!("1..={most}"), got.to_string())),
        };
        number("bytes", self.bytes, CHECKPOINT_BYTES_MAX)?;
        number("steps", self.steps.into(), STEPS_MAX.into())?;
        number("step", self.step.into(), self.steps.into())?;
        // PostgreSQL takes no NUL, and a terminal no control characters.
        let is_text = |text: &str| {
            (1..=CHECKPOINT_TEXT_CHARS_MAX).contains(&text.chars().count())
                && !text.chars().any(char::is_control)
        };
        let text = |field, text: &str| match is_text(text) {
            true => Ok(()),
            false => {
                let expected = format!("1 to {CHECKPOINT_TEXT_CHARS_MAX} printable characters");
                Err(invalid(field, expected, format!("{text:?}")))
            }
        };
        text("device_class", &self.device_class)?;
        text("engine", &self.engine)?;
        let hops = self.resumed.len();
        if hops > JOB_ASSIGNMENTS_MAX as usize {
            let expected = format!("at most {JOB_ASSIGNMENTS_MAX} entries");
            return Err(invalid("resumed", expected, hops.to_string()));
        }
        let anew = self.resumed.iter().filter_map(|hop| hop.anew.as_deref());
        for reason in anew {
            text("resumed.anew", reason)?;
        }
        Ok(())
    }
}

/// From where a job goes on (part of an assignment).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    pub file: CheckpointFile,
    /// The attempt that left it.
    pub attempt: Attempt,
    pub source: Source,
}

/// Where to put a checkpoint (node to leader, ask). May be asked again; the answer is anew each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceCheckpoint {
    pub at: AttemptRef,
    pub node: NodeId,
    pub generation: Generation,
    pub file: CheckpointFile,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum CheckpointPlace {
    /// A presigned PUT: exactly the announced bytes, once. Status 412 says that they lie there already.
    Target {
        url: String,
        /// To be sent as they are.
        headers: Vec<(String, String)>,
    },
    /// Not this attempt's any more, or no checkpoint that is taken: drop it.
    Refused,
}

impl std::fmt::Debug for CheckpointPlace {
    /// Never prints the URL: it is as good as a credential until it expires.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Target { .. } => "Target(..)",
            Self::Refused => "Refused",
        })
    }
}

/// It lies there, and the run goes on (node to leader, cast). Only the newest counts; the next one makes up for a lost one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointPlaced {
    pub at: AttemptRef,
    pub file: CheckpointFile,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> CheckpointFile {
        CheckpointFile {
            sha256: Sha256::from_bytes([1; 32]),
            bytes: 10,
            step: 3,
            steps: 25,
            device_class: "cpu".to_owned(),
            engine: "svd 1".to_owned(),
            resumed: Vec::new(),
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let hop = |anew: Option<&str>| Resumed {
            attempt: Attempt::new(1),
            step: 0,
            anew: anew.map(str::to_owned),
        };
        let check = |change: &dyn Fn(&mut CheckpointFile), expected: Option<&str>| {
            let mut file = file();
            change(&mut file);
            let found = file.validate().err().map(|invalid| invalid.field);
            assert_eq!(found, expected, "{file:?}");
        };
        check(&|_| (), None);
        check(&|file| file.step = file.steps, None);
        check(&|file| file.step = file.steps + 1, Some("step"));
        check(&|file| file.step = 0, Some("step"));
        check(&|file| file.steps = STEPS_MAX + 1, Some("steps"));
        check(&|file| file.bytes = 0, Some("bytes"));
        check(&|file| file.bytes = CHECKPOINT_BYTES_MAX + 1, Some("bytes"));
        check(&|file| file.engine.clear(), Some("engine"));
        check(&|file| file.device_class.push('\0'), Some("device_class"));
        check(
            &|file| file.resumed = vec![hop(None); JOB_ASSIGNMENTS_MAX as usize + 1],
            Some("resumed"),
        );
        check(
            &|file| file.resumed = vec![hop(Some("\u{1b}"))],
            Some("resumed.anew"),
        );
    }
}

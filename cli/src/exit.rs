//! How the command ends, for scripts.

use std::fmt::Write;

/// The status of the process. Each value keeps its meaning for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failure,
    Usage,
    Denied,
    NotFound,
    JobFailed,
    JobCancelled,
    Unreachable,
    TimedOut,
    NoCredits,
    Interrupted,
}

impl Exit {
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Failure,
        Self::Usage,
        Self::Denied,
        Self::NotFound,
        Self::JobFailed,
        Self::JobCancelled,
        Self::Unreachable,
        Self::TimedOut,
        Self::NoCredits,
        Self::Interrupted,
    ];

    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NotFound => 4,
            Self::JobFailed => 5,
            Self::JobCancelled => 6,
            Self::Unreachable => 7,
            Self::TimedOut => 8,
            Self::NoCredits => 9,
            Self::Interrupted => 130,
        }
    }

    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "it worked",
            Self::Failure => "it failed for a reason that has no code of its own",
            Self::Usage => "the arguments or the input cannot be used",
            Self::Denied => "not signed in, or not allowed",
            Self::NotFound => "the farm has no such job, upload or adapter",
            Self::JobFailed => {
                "the job failed or was quarantined and cost no credits; or some of a batch brought no clip"
            }
            Self::JobCancelled => "the job was cancelled",
            Self::Unreachable => "the server cannot be reached",
            Self::TimedOut => "it did not end in the time that --timeout gave; the job goes on",
            Self::NoCredits => "not enough credits",
            Self::Interrupted => "interrupted by Ctrl-C; a job that was submitted goes on",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table that `flowai help exit-codes` prints.
pub fn table() -> String {
    let mut table = String::from("The command ends with one of these:\n\n");
    for exit in Exit::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{:>5}  {}", exit.code(), exit.meaning());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_code_of_its_own_and_a_line_in_the_table() {
        let mut codes: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130]);
        assert_eq!(table().lines().count(), Exit::ALL.len() + 2);
    }
}

//! Counters and sizes between the domain, where they are unsigned, and PostgreSQL, which has signed integers only.

use flowai_actors::credits::Millicredits;
use flowai_actors::ids::{Attempt, Epoch, Generation};

/// Counters end far below `i32::MAX`; one that does not saturates, and then matches no row.
pub(crate) fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// For sizes in bytes and amounts, which the columns' checks keep positive.
pub(crate) fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// For `$n * interval '1 millisecond'`.
pub(crate) fn millis(value: u64) -> f64 {
    value as f64
}

/// Columns of counters have checks against negative values.
pub(crate) fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// Columns of amounts have checks against negative values.
pub(crate) fn millicredits(value: i64) -> Millicredits {
    Millicredits::new(u64::try_from(value).unwrap_or(0))
}

pub(crate) fn epoch_from(value: i32) -> Epoch {
    Epoch::new(unsigned(value))
}

pub(crate) fn attempt_from(value: i32) -> Attempt {
    Attempt::new(unsigned(value))
}

pub(crate) fn generation_from(value: i32) -> Generation {
    Generation::new(unsigned(value))
}

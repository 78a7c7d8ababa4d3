//! What each of the farm's programs does at its start and at its end.

mod causes;
mod crash_points;
mod data_dir;
mod ready;
mod secrets;
mod settings;
mod signals;

pub use causes::with_causes;
pub use crash_points::{NoCrashPoints, arm_crash_points};
pub use data_dir::{DataDir, DataDirError};
pub use ready::write_ready_file;
pub use secrets::{SecretError, optional_secret, secret};
pub use settings::{SettingError, Source, Value, is_address};
pub use signals::EndSignals;

//! Named points of the code at which a program ends as a crash would end it, for fault tests.

/// The points, separated by commas.
const VARIABLE: &str = "FLOWAI_CRASH_AT";

/// The variable is set in a program that was built without crash points.
#[derive(Debug, thiserror::Error)]
#[error(
    "{VARIABLE}: this build has no crash points; build it with the feature failpoints, or unset it"
)]
pub struct NoCrashPoints;

/// From now on, the first of the points that `FLOWAI_CRASH_AT` names ends this process at once, by SIGABRT; its name is the last thing
/// that it writes to standard error. A point is a `fail::fail_point!`, which is nothing without the cargo feature `failpoints`; a release
/// is never built with it.
///
/// # Errors
/// The variable is set and nothing would come of it.
pub fn arm_crash_points() -> Result<(), NoCrashPoints> {
    let Ok(points) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    for point in points.split(',').filter(|point| !point.is_empty()) {
        let name = point.to_owned();
        let crash = move || {
            eprintln!("crash point {name}");
            std::process::abort()
        };
        fail::cfg_callback(point, crash).map_err(|_| NoCrashPoints)?;
    }
    Ok(())
}

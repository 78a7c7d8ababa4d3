//! Network, mounts and process ids of the run's own: whatever it makes is gone when it ends, however it ends.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Context as _;

/// Says to the second start of this program that it is inside.
pub(crate) const INSIDE: &str = "--inside";

/// The shell is the first process inside: it collects what dead servers leave behind, which the first process of a
/// namespace must.
const FIRST_PROCESS: &str = r#""$@"; exit "$?""#;

/// Whether this process may make namespaces: root in a container often may not.
pub(crate) fn is_possible() -> bool {
    let probe = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "true",
        ])
        .output();
    probe.is_ok_and(|probe| probe.status.success())
}

/// Starts this program again, with the same arguments, inside namespaces of its own, and gives its exit status.
///
/// # Errors
/// The kernel or the container refuses namespaces; `--loopback` needs none.
pub(crate) fn run_inside() -> anyhow::Result<i32> {
    let program = std::env::current_exe().context("finding this program")?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Who ends this process ends the run: `unshare` dies with it, and everything inside with `unshare`.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--", "sh", "-c", FIRST_PROCESS, "sh"])
        .arg(program)
        .args(arguments)
        .arg(INSIDE)
        .status()
        .context("starting setpriv and unshare; run with --loopback where there is none")?;
    // Ended by a signal it has said nothing of the farm.
    Ok(status.code().unwrap_or(crate::STATUS_VOID.into()))
}

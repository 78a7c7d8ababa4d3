//! Runs the scripts beside this file in the Python oracle that `make setup` prepares.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Runs `tests/oracle/<script>` and returns what it prints.
///
/// Panics, so that the test fails, when the oracle is not set up or the script does not end well.
pub(crate) fn run<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("../../.oracle/bin/python");
    assert!(
        python.exists(),
        "the Python oracle is missing: run `make setup`"
    );
    let output = Command::new(&python)
        .arg(here.join("tests/oracle").join(script))
        .args(arguments)
        .env("PYTHONPATH", here.join("../svd/oracle"))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the oracle's python must start");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed:\n{stderr}");
    String::from_utf8(output.stdout).expect("the script prints UTF-8")
}

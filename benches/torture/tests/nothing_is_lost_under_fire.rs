//! Goal: with the real programs under faults, no acknowledged job is lost, doubled or left unfinished, and what is called done
//! plays. And: the rig would say so if it were otherwise.
//! Method: a run of the program, short enough for CI, and its report. Then one without faults after which rows and files are
//! damaged behind the farm's back.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// The whole test within five minutes, starting and settling included.
const LIMIT_S: &str = "290";

/// One farm at a time: two on two cores would only wait for each other.
static ALONE: Mutex<()> = Mutex::new(());

fn run(out: &Path, more: &[&str]) -> (bool, Value, String) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_flowai-torture"))
        .args(["run", "--limit-s", LIMIT_S, "--out"])
        .arg(out)
        .args(more)
        .output()
        .unwrap();
    let words = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let report = std::fs::read(out).unwrap_or_else(|error| panic!("{error}\n{words}"));
    let report = serde_json::from_slice(&report).unwrap();
    (output.status.success(), report, words)
}

/// The names of the checks that found something.
fn broken(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["verdict"] == "broken")
        .map(|check| check["name"].as_str().unwrap())
        .collect()
}

#[test]
fn nothing_is_lost_under_fire() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("report.json");
    let size = [
        "--jobs",
        "120",
        "--faults",
        "8",
        "--seed",
        "1",
        "--outage-s",
        "12",
        "--settle-s",
        "90",
    ];
    let (is_good, report, words) = run(&out, &size);
    println!("{words}");

    assert!(is_good, "{words}");
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!(
        (&report["lost"], &report["doubled"]),
        (&0.into(), &0.into())
    );
    let money = report["checks"].as_array().unwrap().iter();
    let mut money = money.filter(|check| check["name"] == "ledger_balances");
    assert_eq!(money.next().unwrap()["verdict"], "holds", "{words}");
    assert!(report["acknowledged"].as_u64().unwrap() >= 80);
    // A fault that did not bite says nothing: few are void.
    let rows = report["rows"].as_array().unwrap();
    let bit = rows.iter().filter(|row| row["bit"].is_string()).count();
    assert_eq!(rows.len(), 8);
    assert!(bit >= 5, "{bit} of {} faults bit", rows.len());
}

#[test]
fn damage_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("report.json");
    let plants = "lost,doubled,open,delivered,spoiled,orphan,billed";
    let (is_good, report, words) = run(&out, &["--jobs", "30", "--faults", "0", "--plant", plants]);

    assert!(!is_good, "{words}");
    let found = broken(&report);
    for check in [
        "acked_exists",
        "every_job_ends",
        "delivered_once",
        "artefact_is_real",
        "no_orphans",
        "ledger_balances",
    ] {
        assert!(found.contains(&check), "{check} found nothing\n{words}");
    }
    assert_eq!(
        (&report["lost"], &report["doubled"]),
        (&1.into(), &2.into())
    );
    // And the one that runs again has been paid for already.
    assert_eq!(report["double_billed"], 2, "{words}");
}

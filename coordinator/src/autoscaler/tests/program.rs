//! Goal: an operator's program hears what is wanted, and cannot hold the leader up. Method: real shell scripts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::super::{Command, Look, Provider, ProviderError, run};
use super::*;
use crate::scheduler::Drain;

const LONG: Duration = Duration::from_secs(60);

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("provider");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn call(wanted: u32) -> Call {
    Call {
        class: "NVIDIA H100; $(reboot)".to_owned(),
        wanted,
        ready: 1,
        drained: vec![name("n1"), name("n2")],
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_running(pid: &str) -> bool {
    // A zombie that its new parent has not collected yet runs no more.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

/// Names of two variables of this process that are not shown unless they are named.
fn two_variables() -> (String, String) {
    let is_plain = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    // A shell sets these by itself.
    let known = [
        "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_",
    ];
    let mut names = std::env::vars().map(|(name, _)| name);
    let mut next = || names.find(|name| is_plain(name) && !known.contains(&name.as_str()));
    (next().unwrap(), next().unwrap())
}

#[tokio::test]
async fn a_program_hears_what_is_wanted_without_a_shell_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    let text = format!(
        r#"for word in "$@"; do echo "$word"; done >{0}; env >>{0}"#,
        said.display()
    );
    let (shown, hidden) = two_variables();
    let names = std::slice::from_ref(&shown);
    let program = Command::new(script(folder.path(), &text), LONG, names);
    program.want(&call(3)).await.unwrap();
    let said = std::fs::read_to_string(said).unwrap();
    let expected =
        "--class\nNVIDIA H100; $(reboot)\n--wanted\n3\n--ready\n1\n--drained\nn1\n--drained\nn2\n";
    assert!(said.starts_with(expected), "{said}");
    let sees = |name: &str| {
        said.lines()
            .any(|line| line.starts_with(&format!("{name}=")))
    };
    assert!(
        sees("PATH") && sees(&shown) && !sees(&hidden),
        "{hidden}: {said}"
    );
}

#[tokio::test]
async fn a_program_that_fails_says_why_and_its_words_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let text = "echo no quota >&2; head -c 100000 /dev/zero | tr '\\0' x >&2; exit 7";
    let program = Command::new(script(folder.path(), text), LONG, &[]);
    let Err(ProviderError::Status { status, said }) = program.want(&call(3)).await else {
        panic!("a program that ends with 7 has failed");
    };
    assert_eq!(status.code(), Some(7));
    assert!(
        said.starts_with("no quota\nxxx") && said.len() <= 4_096,
        "{}",
        said.len()
    );
    let missing = Command::new(folder.path().join("missing"), LONG, &[]);
    assert!(matches!(
        missing.want(&call(3)).await,
        Err(ProviderError::Start(_))
    ));
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let text = format!(
        "sleep 1000 & echo $! >{0}; echo $$ >>{0}; wait",
        pids.display()
    );
    let program = Command::new(script(folder.path(), &text), Duration::from_secs(2), &[]);
    let late = program.want(&call(3)).await;
    assert!(matches!(late, Err(ProviderError::Late(_))), "{late:?}");
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 2);
    until("their end", || !pids.lines().any(is_running)).await;
}

#[tokio::test]
async fn a_child_that_stays_behind_holds_nobody_up_and_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let text = format!("sleep 1000 & echo $! >{}", pid.display());
    let program = Command::new(script(folder.path(), &text), LONG, &[]);
    let start = Instant::now();
    program.want(&call(3)).await.unwrap();
    assert!(start.elapsed() < LONG / 2);
    let pid = std::fs::read_to_string(pid).unwrap();
    until("its end", || !is_running(&pid)).await;
}

#[tokio::test]
async fn a_program_that_succeeded_is_not_late_because_of_who_left_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    // It says who it is once it has left, and keeps the program's output open.
    let text = format!(
        "setsid sh -c 'echo $$ >{0}; exec sleep 1000' &\nuntil [ -s {0} ]; do sleep 0.02; done\necho ordered",
        pid.display()
    );
    let program = Command::new(script(folder.path(), &text), LONG, &[]);
    let start = Instant::now();
    program.want(&call(3)).await.unwrap();
    assert!(start.elapsed() < LONG / 2);
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(is_running(&pid), "it is not the program's any more");
    kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn the_end_of_a_term_ends_a_program_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let text = format!("echo $$ >{}; sleep 1000", pid.display());
    let program = Command::new(script(folder.path(), &text), LONG, &[]);
    let (shown, looks) = watch::channel(Look::default());
    let term = tokio::spawn(run(
        policy(&["n=1..2@1"], None),
        program,
        looks,
        |_, _| async { Ok(()) },
    ));
    show(&shown, &[quiet(0, 0)]);
    let read = || std::fs::read_to_string(&pid).unwrap_or_default();
    until("its start", || read().ends_with('\n')).await;
    let pid = read();
    term.abort();
    until("its end", || !is_running(&pid)).await;
}

#[tokio::test]
async fn a_farm_grows_by_its_program_and_shrinks_by_drains_one_call_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // The first call fails; two at once would be seen by the lock.
    let text = format!(
        r#"mkdir {0}.lock || {{ echo two at once >>{0}; exit 1; }}
sleep 0.2; rmdir {0}.lock
if [ ! -e {0} ]; then echo failed >{0}; exit 1; fi
echo "$@" >>{0}"#,
        log.display()
    );
    let program = Command::new(script(folder.path(), &text), LONG, &[]);
    let (shown, looks) = watch::channel(Look::default());
    let drains = Arc::new(Mutex::new(Vec::new()));
    let seen = drains.clone();
    let term = tokio::spawn(run(
        policy(&["n=1..4@1"], None),
        program,
        looks,
        move |node, how| {
            seen.lock().unwrap().push((node, how));
            async { Ok(()) }
        },
    ));
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let mut at = show(&shown, &[quiet(1, 1)]);
    until("a call after one that failed", || {
        read().lines().count() == 2
    })
    .await;
    for _ in 0..3 {
        at = show_at(&shown, at, &[crowded(1, Tier::Studio, 9, 900.0)]).await;
    }
    until("more nodes", || read().lines().count() == 3).await;
    for _ in 0..=COOL_DOWN_MS / LOOK_MS {
        at = show_at(&shown, at, &[quiet(0, 4)]).await;
    }
    until("fewer nodes", || read().lines().count() >= 4).await;
    let expected = "failed
--class n --wanted 1 --ready 1
--class n --wanted 4 --ready 1
--class n --wanted 1 --ready 1
";
    assert_eq!(read(), expected);
    let expected = ["n0", "n1", "n2"].map(|node| (name(node), Drain::Lazy));
    assert_eq!(*drains.lock().unwrap(), expected);
    drop(shown);
    term.await.unwrap().unwrap();
}

/// Shows the pools until the state has settled.
fn show(shown: &watch::Sender<Look>, pools: &[Pool]) -> Monotonic {
    let at = Monotonic::from_millis(1_000_000);
    let look = |at| Look {
        at,
        pools: pools.to_vec(),
    };
    shown.send_replace(look(at));
    let shown = shown.clone();
    let settled = look(at.plus_ms(AUTOSCALE_SETTLE_MS));
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        shown.send_replace(settled);
    });
    at.plus_ms(AUTOSCALE_SETTLE_MS)
}

/// The next look; each is taken in before another comes.
async fn show_at(shown: &watch::Sender<Look>, at: Monotonic, pools: &[Pool]) -> Monotonic {
    let at = at.plus_ms(LOOK_MS);
    shown.send_replace(Look {
        at,
        pools: pools.to_vec(),
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    at
}

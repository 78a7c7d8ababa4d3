//! One peer process, as the tests see it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::SOON;

/// The environment variable that makes this executable a peer; its value is the peer's setup as JSON.
pub(crate) const PEER_SETUP: &str = "FLOWAI_LINK_TEST_PEER";

/// How often a counter is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// A running peer. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<Value>,
    /// Printed but not yet looked at.
    seen: Vec<Value>,
    name: String,
}

impl Process {
    /// Starts a peer, behind `prefix` (for instance `ip netns exec NAME`). With a `log` it writes all it can there.
    pub(crate) fn start(setup: &Value, prefix: &[&str], log: Option<File>) -> Self {
        let executable = std::env::current_exe().unwrap();
        let mut command = match prefix {
            [] => Command::new(executable),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(executable);
                command
            }
        };
        match log {
            Some(log) => command.env("RUST_LOG", "trace").stderr(log),
            None => command.env("RUST_LOG", "off").stderr(Stdio::inherit()),
        };
        command
            .env(PEER_SETUP, setup.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            orders,
            lines,
            seen: Vec::new(),
            name: setup["identity"].to_string(),
        }
    }

    /// Tells the peer something; it prints a line when it has done it.
    pub(crate) fn order(&mut self, order: Value) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// Waits for a line that holds at least `part`, and takes it. Lines before it stay for later.
    #[track_caller]
    pub(crate) fn expect(&mut self, part: Value) -> Value {
        self.expect_within(SOON, part)
    }

    #[track_caller]
    pub(crate) fn expect_within(&mut self, limit: Duration, part: Value) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.seen.iter().position(|line| holds(line, &part)) {
                return self.seen.remove(at);
            }
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!(
                    "{}: no {part} within {limit:?} ({error}); seen: {:#?}",
                    self.name, self.seen
                ),
            }
        }
    }

    /// Whether a line with `part` was printed up to now. Use it after the peer has answered something later.
    pub(crate) fn has_printed(&mut self, part: &Value) -> bool {
        self.seen.extend(self.lines.try_iter());
        self.seen.iter().any(|line| holds(line, part))
    }

    /// Asks `to` and gives the line with `outcome` (`{"answer": text}` or `{"error": name}`) and `took_ms`.
    #[track_caller]
    pub(crate) fn ask(&mut self, to: &str, kind: u32) -> Value {
        self.order(json!({ "do": "ask", "to": to, "kind": kind, "text": "question", "deadline_ms": 2_000 }));
        self.expect_within(SOON, json!({ "asked": kind }))
    }

    #[track_caller]
    pub(crate) fn stats(&mut self) -> Value {
        self.order(json!({ "do": "stats" }));
        self.expect(json!({ "stats": {} }))["stats"].clone()
    }

    /// Waits until a counter of the peer is at least `least`.
    #[track_caller]
    pub(crate) fn expect_counted(&mut self, counter: &str, least: u64) {
        let deadline = Instant::now() + SOON;
        loop {
            let stats = self.stats();
            if stats[counter].as_u64().unwrap() >= least {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{}: {counter} did not reach {least}: {stats}",
                self.name
            );
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// `kill -9`, and waits until it is dead.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whether `whole` has everything that `part` has.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| holds(whole, part))),
        (whole, part) => whole == part,
    }
}

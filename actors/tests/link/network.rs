//! The network goes silent and comes back, with both processes well.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::farm::{Farm, HUB};
use crate::peer::ECHO;
use crate::process::Process;

/// Silence of 8 s and what a busy machine adds.
const NOTICED: Duration = Duration::from_secs(10);
/// A healed link is up within 5 s; the rest is what a busy machine adds.
const HEALED: Duration = Duration::from_secs(8);

/// Through a proxy that swallows bytes, so that it needs no privileges.
pub(crate) fn a_silent_network_is_noticed_and_heals() {
    let farm = Farm::new();
    let (hub, address) = farm.hub();
    let proxy = Proxy::start(&address);
    let node = farm.spoke("n1.node", &proxy.address);
    cut_and_heal(hub, node, || proxy.swallow(true), || proxy.swallow(false));
}

/// Two network namespaces and a cable between them, which is cut by dropping every packet.
pub(crate) fn a_cut_namespace_is_noticed_and_heals() {
    let farm = Farm::new();
    let cable = Cable::new();
    let listen = format!("{HUB_ADDRESS}:4777");
    let setup = farm.setup(HUB, json!({ "listen": listen, "leads": true }), json!({}));
    let mut hub = Process::start(&setup, &["ip", "netns", "exec", &cable.hub_side], None);
    hub.expect(json!({ "event": "listening" }));
    let setup = farm.setup("n1.node", json!({ "dial": [listen] }), json!({}));
    let node = Process::start(&setup, &["ip", "netns", "exec", &cable.node_side], None);
    cut_and_heal(hub, node, || cable.cut(), || cable.mend());
}

fn cut_and_heal(mut hub: Process, mut node: Process, cut: impl Fn(), heal: impl Fn()) {
    node.expect(json!({ "event": "up", "peer": HUB }));
    hub.expect(json!({ "event": "up", "peer": "n1.node" }));
    assert_eq!(
        node.ask(HUB, ECHO)["outcome"],
        json!({ "answer": "question" })
    );

    cut();
    let start = Instant::now();
    assert_eq!(
        node.ask(HUB, ECHO)["outcome"],
        json!({ "error": "timeout" })
    );
    hub.expect_within(
        NOTICED,
        json!({ "event": "down", "peer": "n1.node", "reason": "Silent" }),
    );
    node.expect_within(NOTICED, json!({ "event": "down", "peer": HUB }));
    assert!(
        start.elapsed() < NOTICED,
        "noticed after {:?}",
        start.elapsed()
    );
    assert_eq!(
        hub.ask("n1.node", ECHO)["outcome"],
        json!({ "error": "gone" })
    );

    heal();
    node.expect_within(HEALED, json!({ "event": "up", "peer": HUB }));
    hub.expect(json!({ "event": "up", "peer": "n1.node" }));
    assert_eq!(
        node.ask(HUB, ECHO)["outcome"],
        json!({ "answer": "question" })
    );
}

/// Forwards connections, or swallows what they carry while they stay open.
struct Proxy {
    address: String,
    swallows: Arc<AtomicBool>,
}

impl Proxy {
    fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let swallows = Arc::new(AtomicBool::new(false));
        let (target, flag) = (target.to_owned(), swallows.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&target) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to, flag) = (
                        from.try_clone().unwrap(),
                        to.try_clone().unwrap(),
                        flag.clone(),
                    );
                    std::thread::spawn(move || forward(from, to, &flag));
                }
            }
        });
        Self { address, swallows }
    }

    fn swallow(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::Relaxed);
    }
}

/// What was swallowed once would make nonsense of the rest: such a direction stays silent, as after a cut whose
/// connection has been given up.
fn forward(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut is_spoilt = false;
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        is_spoilt |= swallows.load(Ordering::Relaxed);
        if !is_spoilt && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    if !is_spoilt {
        // The other side may be closed already.
        to.shutdown(Shutdown::Write).ok();
    }
}

const HUB_ADDRESS: &str = "10.213.77.1";
const NODE_ADDRESS: &str = "10.213.77.2";

/// Whether this process may make network namespaces.
pub(crate) fn can_make_namespaces() -> bool {
    let probe = format!("flowai-probe-{}", std::process::id());
    let made = Command::new("ip")
        .args(["netns", "add", &probe])
        .stderr(Stdio::null())
        .status();
    let made = made.is_ok_and(|status| status.success());
    if made {
        ip(&["netns", "del", &probe]);
    }
    made
}

/// Two namespaces joined by a pair of virtual network devices. Removed when dropped.
struct Cable {
    hub_side: String,
    node_side: String,
}

impl Cable {
    fn new() -> Self {
        let id = std::process::id();
        let cable = Self {
            hub_side: format!("flowai-h{id}"),
            node_side: format!("flowai-n{id}"),
        };
        ip(&["netns", "add", &cable.hub_side]);
        ip(&["netns", "add", &cable.node_side]);
        let (hub_end, node_end) = (
            ["name", "eth0", "netns", &cable.hub_side],
            ["name", "eth0", "netns", &cable.node_side],
        );
        let mut link = vec!["link", "add"];
        link.extend(hub_end);
        link.extend(["type", "veth", "peer"]);
        link.extend(node_end);
        ip(&link);
        for (side, address) in [
            (&cable.hub_side, HUB_ADDRESS),
            (&cable.node_side, NODE_ADDRESS),
        ] {
            ip(&[
                "-n",
                side,
                "addr",
                "add",
                &format!("{address}/24"),
                "dev",
                "eth0",
            ]);
            ip(&["-n", side, "link", "set", "lo", "up"]);
            ip(&["-n", side, "link", "set", "eth0", "up"]);
        }
        cable
    }

    /// Drops every packet without telling either end: each side's neighbour entry points to nobody.
    fn cut(&self) {
        self.point_to("02:00:00:00:00:66", "02:00:00:00:00:66");
    }

    fn mend(&self) {
        self.point_to(&mac(&self.node_side), &mac(&self.hub_side));
    }

    fn point_to(&self, hub_sees: &str, node_sees: &str) {
        let neighbour = ["neigh", "replace"];
        for (side, address, mac) in [
            (&self.hub_side, NODE_ADDRESS, hub_sees),
            (&self.node_side, HUB_ADDRESS, node_sees),
        ] {
            let entry = [address, "lladdr", mac, "dev", "eth0", "nud", "permanent"];
            ip(&[&["-n", side], &neighbour[..], &entry[..]].concat());
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for side in [&self.hub_side, &self.node_side] {
            // Without an assertion: a panic here would hide the one that brought us here.
            Command::new("ip")
                .args(["netns", "del", side])
                .status()
                .ok();
        }
    }
}

fn mac(side: &str) -> String {
    let output = Command::new("ip")
        .args(["netns", "exec", side, "cat", "/sys/class/net/eth0/address"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
}

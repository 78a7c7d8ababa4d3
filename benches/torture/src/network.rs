//! Where the programs find each other: a network namespace each, joined by a bridge, or all on loopback.
//!
//! Both lie within the run: namespaces are made inside its own (see `isolation`), and no other address is ever used.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The bridge, the clients and the fault proxies.
const HUB: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const FIRST_HOST: u8 = 11;
const HOSTS_MAX: usize = 100;

/// Which packets do not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    /// What others send does not arrive.
    In,
    /// What it sends does not arrive.
    Out,
}

/// A place that a program runs at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) address: Ipv4Addr,
    /// The namespace's name; none on loopback.
    namespace: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Network {
    has_namespaces: bool,
    hosts: usize,
}

impl Network {
    /// A bridge in the present network namespace, which must be the run's own and empty.
    pub(crate) fn of_namespaces() -> anyhow::Result<Self> {
        let links = command("ip", &["-o", "link"])?;
        let is_empty = links.lines().all(|line| !line.contains(": eth"));
        ensure!(is_empty, "this network namespace is not the run's own");
        // Names of namespaces are mounts, which are to go with the run.
        std::fs::create_dir_all("/run/netns")?;
        command("mount", &["-t", "tmpfs", "tmpfs", "/run/netns"])?;
        ip("link set lo up")?;
        ip("link add hub type bridge")?;
        ip(&format!("addr add {HUB}/24 dev hub"))?;
        ip("link set hub up")?;
        Ok(Self {
            has_namespaces: true,
            hosts: 0,
        })
    }

    pub(crate) fn of_loopback() -> Self {
        Self {
            has_namespaces: false,
            hosts: 0,
        }
    }

    pub(crate) fn has_namespaces(&self) -> bool {
        self.has_namespaces
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.has_namespaces {
            true => "network namespaces on a bridge",
            false => "loopback through fault proxies",
        }
    }

    /// Where fault proxies listen.
    pub(crate) fn hub(&self) -> Ipv4Addr {
        match self.has_namespaces {
            true => HUB,
            false => Ipv4Addr::LOCALHOST,
        }
    }

    /// Where the clients and the fault proxies are.
    pub(crate) fn at_hub(&self) -> Host {
        Host {
            address: self.hub(),
            namespace: None,
        }
    }

    /// A place for one more program.
    pub(crate) fn host(&mut self, name: &str) -> anyhow::Result<Host> {
        ensure!(self.hosts < HOSTS_MAX, "at most {HOSTS_MAX} programs");
        let number = self.hosts;
        self.hosts += 1;
        if !self.has_namespaces {
            return Ok(Host {
                address: Ipv4Addr::LOCALHOST,
                namespace: None,
            });
        }
        let last = FIRST_HOST + u8::try_from(number)?;
        let address = Ipv4Addr::new(10, 66, 0, last);
        let wire = format!("to{last}");
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {wire} type veth peer name eth0 netns {name}"
        ))?;
        ip(&format!("link set {wire} master hub up"))?;
        ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(Host {
            address,
            namespace: Some(name.to_owned()),
        })
    }
}

impl Host {
    /// What a command line begins with to run here.
    pub(crate) fn enter(&self) -> Vec<String> {
        match &self.namespace {
            Some(name) => ["nsenter", &format!("--net=/run/netns/{name}")]
                .map(str::to_owned)
                .to_vec(),
            None => Vec::new(),
        }
    }

    /// Drops packets without a word, as a broken network does; a reset would be the easy case. `port`: only those from and
    /// to this port of the hub.
    pub(crate) fn cut(&self, way: Way, port: Option<u16>) -> anyhow::Result<()> {
        let rule = |chain: &str, side: &str, interface: &str| {
            let mut words = vec!["-w", "-A", chain, interface, "eth0"];
            let port = port.map(|port| port.to_string());
            if let Some(port) = &port {
                words.extend(["-p", "tcp", side, port]);
            }
            words.extend(["-j", "DROP"]);
            self.iptables(&words).map(drop)
        };
        if way != Way::Out {
            rule("INPUT", "--sport", "-i")?;
        }
        if way != Way::In {
            rule("OUTPUT", "--dport", "-o")?;
        }
        Ok(())
    }

    /// Lets everything pass again; gives the packets that were dropped.
    pub(crate) fn mend(&self) -> anyhow::Result<u64> {
        let mut dropped = 0;
        for chain in ["INPUT", "OUTPUT"] {
            let listed = self.iptables(&["-w", "-L", chain, "-v", "-x", "-n"])?;
            dropped += listed
                .lines()
                .filter(|line| line.contains("DROP"))
                .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
                .sum::<u64>();
            self.iptables(&["-w", "-F", chain])?;
        }
        Ok(dropped)
    }

    fn iptables(&self, words: &[&str]) -> anyhow::Result<String> {
        let name = self.namespace.as_deref();
        let name = name.context("packets are dropped in namespaces only")?;
        let namespace = format!("--net=/run/netns/{name}");
        let mut all = vec![namespace.as_str(), "iptables"];
        all.extend(words);
        command("nsenter", &all)
    }
}

fn ip(words: &str) -> anyhow::Result<String> {
    command("ip", &words.split(' ').collect::<Vec<_>>())
}

pub(crate) fn command(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The programs that namespaces take, by where Debian puts them; what is missing is named.
pub(crate) fn missing_programs() -> Vec<&'static str> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let is_there = |name: &&str| folders.iter().any(|at| Path::new(at).join(name).is_file());
    let all = ["ip", "iptables", "mkfs.ext4", "mount", "nsenter", "unshare"];
    all.into_iter().filter(|name| !is_there(name)).collect()
}

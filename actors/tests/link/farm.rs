//! A CA and the peers it has certified, for one test.

use flowai_actors::link::pki::Ca;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Process;

pub(crate) const HUB: &str = "c1.coordinator";

pub(crate) struct Farm {
    ca: Ca,
    folder: TempDir,
}

impl Farm {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            ca: Ca::create(folder.path()).unwrap(),
            folder,
        }
    }

    /// Certifies a peer and gives the folder of its identity.
    pub(crate) fn identity(&self, peer: &str) -> String {
        let home = self.folder.path().join(peer);
        self.ca
            .issue(&peer.parse().unwrap())
            .unwrap()
            .save(&home)
            .unwrap();
        home.to_str().unwrap().to_owned()
    }

    /// A leading hub on a free port, and its address.
    pub(crate) fn hub(&self) -> (Process, String) {
        self.start_hub(json!({}))
    }

    pub(crate) fn start_hub(&self, more: Value) -> (Process, String) {
        let mut hub = self.start(HUB, json!({ "listen": "127.0.0.1:0", "leads": true }), more);
        let address = hub.expect(json!({ "event": "listening" }))["address"]
            .as_str()
            .unwrap()
            .to_owned();
        (hub, address)
    }

    pub(crate) fn spoke(&self, peer: &str, hub: &str) -> Process {
        self.start_spoke(peer, hub, json!({}))
    }

    pub(crate) fn start_spoke(&self, peer: &str, hub: &str, more: Value) -> Process {
        self.start(peer, json!({ "dial": [hub] }), more)
    }

    /// A hub and a spoke that have found each other.
    pub(crate) fn pair(&self, peer: &str) -> (Process, Process, String) {
        let (mut hub, address) = self.hub();
        let mut spoke = self.spoke(peer, &address);
        spoke.expect(json!({ "event": "up", "peer": HUB }));
        hub.expect(json!({ "event": "up", "peer": peer }));
        (hub, spoke, address)
    }

    /// The setup of a peer: `more` overrides `setup`, which overrides generation 1 and schema 5.
    pub(crate) fn setup(&self, peer: &str, setup: Value, more: Value) -> Value {
        let mut whole = json!({ "identity": self.identity(peer), "generation": 1, "schema": 5 });
        for part in [setup, more] {
            whole
                .as_object_mut()
                .unwrap()
                .extend(part.as_object().unwrap().clone());
        }
        whole
    }

    pub(crate) fn start(&self, peer: &str, setup: Value, more: Value) -> Process {
        Process::start(&self.setup(peer, setup, more), &[], None)
    }
}

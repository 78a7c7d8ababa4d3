//! The farm's CA, on the machines that may come to lead. Only the leader signs with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::NodeId;
use flowai_actors::link::PeerId;
use flowai_actors::link::pki::{Ca, PkiError, Signed};

/// Signs certificates of nodes. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    ca: Arc<Ca>,
    life: Duration,
}

impl Authority {
    /// `life`: for how long a node's certificate is valid.
    pub fn new(ca: Ca, life: Duration) -> Self {
        Self {
            ca: Arc::new(ca),
            life,
        }
    }

    /// Certifies the key of a request for this node.
    ///
    /// # Errors
    /// The request cannot be honoured.
    pub(crate) fn sign(&self, request: &str, node: &NodeId) -> Result<Signed, PkiError> {
        self.ca.sign(request, &PeerId::from(node), self.life)
    }

    pub(crate) fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    pub(crate) fn cookie_text(&self) -> String {
        self.ca.cookie_text()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

//! The nodes, before anything runs on them.

use super::{ModelIx, assumed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(pub u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceClass {
    /// The reference device.
    Large,
    Small,
}

impl DeviceClass {
    /// Work of the reference device that it does in a second.
    pub const fn speed(self) -> f64 {
        match self {
            Self::Large => assumed::LARGE_SPEED,
            Self::Small => assumed::SMALL_SPEED,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Small => "small",
        }
    }

    pub fn fits(self, model: ModelIx) -> bool {
        match self {
            Self::Large => true,
            Self::Small => !model.is_large(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    nodes: Vec<DeviceClass>,
}

impl Fleet {
    /// Large and small in turn, the first one large: every model fits somewhere.
    pub fn new(nodes: u32) -> Self {
        let classes = [DeviceClass::Large, DeviceClass::Small];
        Self {
            nodes: classes.into_iter().cycle().take(nodes as usize).collect(),
        }
    }

    pub fn nodes(&self) -> impl Iterator<Item = (NodeIx, DeviceClass)> {
        (0..).map(NodeIx).zip(self.nodes.iter().copied())
    }

    pub fn class(&self, node: NodeIx) -> DeviceClass {
        self.nodes[node.0 as usize]
    }

    /// Work of the reference device that all nodes do in a second.
    pub fn capacity(&self) -> f64 {
        self.nodes.iter().map(|class| class.speed()).sum()
    }
}

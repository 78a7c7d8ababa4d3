//! What an API key may be limited to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A part of the API. Whoever is logged in has all of them; what an account's role adds is asked elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    /// Pictures and renders.
    #[serde(rename = "videos")]
    Videos,
    /// Adapter files.
    #[serde(rename = "adapters")]
    Adapters,
    /// Looking at nodes and queues. Only an administrator can make such a key.
    #[serde(rename = "farm:read")]
    FarmRead,
    /// Operating the farm. Only an administrator can make such a key.
    #[serde(rename = "farm")]
    Farm,
    /// Giving credits. Only an administrator can make such a key, and operating the farm needs none.
    #[serde(rename = "credits")]
    Credits,
}

impl Scope {
    pub const ALL: [Self; 5] = [
        Self::Videos,
        Self::Adapters,
        Self::FarmRead,
        Self::Farm,
        Self::Credits,
    ];

    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Videos => "videos",
            Self::Adapters => "adapters",
            Self::FarmRead => "farm:read",
            Self::Farm => "farm",
            Self::Credits => "credits",
        }
    }

    /// `None` for a scope of a newer version: it then allows nothing here.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// Whether the farm or the credits of others, and not only the holder's own things, can be seen or changed with it.
    pub const fn is_operators(self) -> bool {
        match self {
            Self::Videos | Self::Adapters => false,
            Self::FarmRead | Self::Farm | Self::Credits => true,
        }
    }
}

//! Whether the leader believes what the database says.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Client, ClientError};

/// What a comparison found.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Comparison {
    /// Unfinished jobs in the database.
    pub jobs: u64,
    /// Those that seemed to differ at first.
    pub suspected: u64,
    /// Those that differed when they were read again.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// A job of which the leader believed something else.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Difference {
    pub video: String,
    pub memory: String,
    pub row: String,
}

impl Client {
    /// Has the leader compare its memory with the database.
    pub async fn compare(&self) -> Result<Comparison, ClientError> {
        self.transport.post("/v1/farm/compare", &json!({})).await
    }
}

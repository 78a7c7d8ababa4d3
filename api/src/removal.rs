//! Objects that go with their rows.

use flowai_store::database::{UserTransaction, commit};

use crate::app::App;
use crate::error::ApiError;

/// What no row names any more once the removal is committed.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    pub(crate) keys: Vec<String>,
    /// Everything that lies below them.
    pub(crate) prefixes: Vec<String>,
}

impl Leftovers {
    pub(crate) fn key(key: String) -> Self {
        Self {
            keys: vec![key],
            ..Self::default()
        }
    }
}

impl App {
    /// Commits the removal of rows, then removes their objects. By a task of its own: a client that hangs up leaves none behind.
    ///
    /// # Errors
    /// The commit's; then nothing is removed.
    pub(crate) async fn commit_removal(
        &self,
        transaction: UserTransaction,
        leftovers: Leftovers,
    ) -> Result<(), ApiError> {
        let app = self.clone();
        let done = tokio::spawn(async move {
            commit(transaction).await?;
            for key in &leftovers.keys {
                app.forget_object(key).await;
            }
            for prefix in &leftovers.prefixes {
                if let Err(error) = app.objects.delete_prefix(prefix).await {
                    tracing::warn!(%error, prefix, "objects that nothing names stay in the store");
                }
            }
            Ok(())
        });
        done.await.map_err(|_| ApiError::Internal)?
    }

    /// Removes an object that no row names any more. What stays behind costs space and nothing else.
    pub(crate) async fn forget_object(&self, key: &str) {
        if let Err(error) = self.objects.delete(key).await {
            tracing::warn!(%error, key, "an object that nothing names stays in the store");
        }
    }
}

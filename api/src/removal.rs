//! Objects that go with their rows.

use flowai_actors::ids::UserId;
use flowai_store::database::{UserTransaction, commit};
use flowai_store::leftovers::Leftovers;

use crate::app::App;
use crate::error::ApiError;

impl App {
    /// Commits the removal of rows of `owner`, then removes their objects. By a task of its own: a client that hangs up leaves none behind.
    /// What is not removed now is by the leader.
    ///
    /// # Errors
    /// The commit's; then nothing is removed.
    pub(crate) async fn commit_removal(
        &self,
        mut transaction: UserTransaction,
        owner: UserId,
        leftovers: Leftovers,
    ) -> Result<(), ApiError> {
        let app = self.clone();
        let done = tokio::spawn(async move {
            let recorded = leftovers.record(&mut transaction).await?;
            commit(transaction).await?;
            if let Err(error) = recorded.remove(&app.database, owner, &app.objects).await {
                tracing::warn!(%error, "objects that nothing names stay in the store for now");
            }
            Ok(())
        });
        done.await.map_err(|_| ApiError::Internal)?
    }

    /// Removes an object that no row ever named. What stays behind costs space and nothing else.
    pub(crate) async fn forget_object(&self, key: &str) {
        if let Err(error) = self.objects.delete(key).await {
            tracing::warn!(%error, key, "an object that nothing names stays in the store");
        }
    }
}

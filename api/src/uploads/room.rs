//! How much one account stores: pictures and adapters stay until their owner removes them.

use flowai_actors::ids::UserId;
use flowai_store::uploads;

use crate::app::App;
use crate::error::ApiError;

/// To be asked before a file comes in. Files that come at once may each be the last one: a user has few places.
///
/// # Errors
/// `StorageFull`.
pub(crate) async fn require_room(app: &App, user: UserId) -> Result<(), ApiError> {
    let mut transaction = app.database.begin_as(user).await?;
    let (tier, stored) = uploads::stored(&mut transaction).await?;
    let most = tier.stored_bytes_max();
    match stored >= most {
        true => Err(ApiError::StorageFull { tier, most }),
        false => Ok(()),
    }
}

//! The account of whoever runs a farm on one machine: made at the first start, an administrator.

use std::path::Path;

use flowai_actors::state::Tier;
use flowai_store::accounts::{make_admin, set_tier};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::client::{Account, Client, ClientError, Secret};
use crate::commands::{CommandError, log_out_of, obtain_key};
use crate::exit::Exit;
use crate::farm::{Farm, FarmError};
use crate::private_file;

/// An address that no mail ever reaches.
const EMAIL: &str = "owner@flowai.localhost";

/// The owner, as kept in the data folder for them to read.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    email: String,
    password: Secret,
    /// `None`: the account is still to be made, or its making was interrupted.
    account: Option<Account>,
}

/// The owner of a running farm, made if there is none; the API key is made anew if it was ended.
pub(crate) async fn of(farm: &Farm, url: &Url) -> Result<Account, CommandError> {
    let path = farm.folder().owner();
    let kept = match private_file::read::<Kept>(&path)? {
        Some(kept) => kept,
        None => {
            // Kept before it is used: a start that is interrupted locks nobody out.
            let kept = Kept {
                email: EMAIL.to_owned(),
                password: Secret::new(hex::encode(rand::random::<[u8; 32]>())),
                account: None,
            };
            private_file::write(&path, &kept)?;
            kept
        }
    };
    let Some(account) = &kept.account else {
        Client::sign_up(url, &kept.email, &kept.password).await?;
        // Somebody else may have made an account of this name before: that one becomes no administrator.
        let login = Client::log_in(url, &kept.email, &kept.password).await;
        let login = login.map_err(|error| not_ours(error, &path))?;
        log_out_of(&login).await;
        let owner_url = &farm.parts().database().owner;
        make_admin(owner_url, &kept.email)
            .await
            .map_err(FarmError::from)?;
        // On a farm of one's own nobody else has to be left room.
        set_tier(owner_url, &kept.email, Tier::Studio)
            .await
            .map_err(FarmError::from)?;
        return sign_in(url, &path, kept).await;
    };
    match Client::new(url, account.api_key.clone())?.me().await {
        Ok(_) => Ok(account.clone()),
        Err(error) if error.code() == Some("token_invalid") => sign_in(url, &path, kept).await,
        Err(error) => Err(error.into()),
    }
}

fn not_ours(error: ClientError, path: &Path) -> CommandError {
    if error.exit() != Exit::Denied {
        return error.into();
    }
    CommandError::Usage(format!(
        "the farm has an account {EMAIL} that does not have the password of {}: end this farm, remove that account from its database, and start again",
        path.display()
    ))
}

async fn sign_in(url: &Url, path: &Path, kept: Kept) -> Result<Account, CommandError> {
    let (_, account) = obtain_key(url, &kept.email, &kept.password).await?;
    let kept = Kept {
        account: Some(account.clone()),
        ..kept
    };
    private_file::write(path, &kept)?;
    Ok(account)
}

//! Who the servers run as.

use std::path::Path;

use nix::unistd::{Gid, Uid, User, geteuid};

use crate::Error;

/// The user that the servers run as: the caller, or an unprivileged user when the caller is root, because PostgreSQL
/// refuses to run as root and the others have no need to.
#[derive(Clone, Debug)]
pub struct RunAs {
    /// `None`: the caller's own identity is kept.
    switch_to: Option<User>,
}

impl RunAs {
    /// The caller's own identity, root or not.
    pub const fn caller() -> Self {
        Self { switch_to: None }
    }

    /// `postgres` (made by the Debian package) when it exists, else whoever called sudo, else `nobody`.
    pub(crate) fn choose() -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Ok(Self { switch_to: None });
        }
        let by_name = |name| User::from_name(name).ok().flatten();
        let sudo_caller = || {
            let uid = std::env::var("SUDO_UID").ok()?.parse().ok()?;
            User::from_uid(Uid::from_raw(uid))
                .ok()
                .flatten()
                .filter(|user| !user.uid.is_root())
        };
        let user = by_name("postgres")
            .or_else(sudo_caller)
            .or_else(|| by_name("nobody"));
        match user {
            Some(user) => Ok(Self {
                switch_to: Some(user),
            }),
            None => Err(Error::ProgramMissing {
                program: "an unprivileged user (postgres or nobody)",
            }),
        }
    }

    pub(crate) fn ids(&self) -> Option<(Uid, Gid)> {
        self.switch_to.as_ref().map(|user| (user.uid, user.gid))
    }

    /// Gives `path` to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        let Some((uid, gid)) = self.ids() else {
            return Ok(());
        };
        std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .map_err(Error::io(format!("giving {} to uid {uid}", path.display())))
    }

    /// Checks that this user may pass through every folder above `path`, so that the answer names the folder instead of
    /// a server ending with "permission denied".
    pub(crate) fn check_reachable(&self, path: &Path) -> Result<(), Error> {
        use std::os::unix::fs::MetadataExt;

        let Some(user) = &self.switch_to else {
            return Ok(());
        };
        for folder in path.ancestors().skip(1) {
            let metadata = folder
                .metadata()
                .map_err(Error::io(format!("looking at {}", folder.display())))?;
            let may_enter = match metadata.mode() {
                mode if metadata.uid() == user.uid.as_raw() => mode & 0o100,
                mode if metadata.gid() == user.gid.as_raw() => mode & 0o010,
                mode => mode & 0o001,
            };
            if may_enter == 0 {
                return Err(Error::FolderUnreachable {
                    folder: folder.to_owned(),
                    user: user.name.clone(),
                });
            }
        }
        Ok(())
    }
}

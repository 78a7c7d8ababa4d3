//! How many sockets this program may hold.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// As many as the system allows: ten thousand readers are ten thousand sockets, and login shells and systemd allow 1,024 at first.
pub(crate) fn allow_all() -> nix::Result<()> {
    let (allowed, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if allowed < most {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    }
    Ok(())
}

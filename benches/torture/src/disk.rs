//! A disk that can be full: an ext4 file system in a file, mounted where only the run sees it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use crate::network::command;

/// What programs give back while the disk is to be full is taken again this soon.
const TAKE_EVERY: Duration = Duration::from_millis(100);

/// A mounted disk. It goes with the run's mount namespace.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Drop for Disk {
    /// Or its folder could not be removed. Whoever still has a file open there keeps it until it ends.
    fn drop(&mut self) {
        let at = self.folder.display().to_string();
        if let Err(error) = command("umount", &["--lazy", &at]) {
            tracing::warn!(%error, "a disk of the run stays mounted");
        }
    }
}

impl Disk {
    /// Makes one of so many bytes, of which only those that are used take up room, and mounts it at `folder`.
    ///
    /// # Errors
    /// No loop device, or no right to mount.
    pub(crate) fn mount(image: &Path, folder: PathBuf, bytes: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        File::create(image)?.set_len(bytes)?;
        let (image, at) = (image.display().to_string(), folder.display().to_string());
        command("mkfs.ext4", &["-q", "-m", "0", &image])?;
        command("mount", &["-o", "loop", &image, &at])?;
        fs::remove_dir(folder.join("lost+found"))?;
        Ok(Self { folder })
    }

    /// Leaves nothing free for so long.
    ///
    /// # Errors
    /// The filler cannot be made.
    pub(crate) async fn fill(&self, lasting: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + lasting;
        let path = self.folder.join("filler");
        let filler = File::create(&path).with_context(|| path.display().to_string())?;
        let mut taken = 0;
        while Instant::now() < until {
            taken = self.take(&filler, taken)?;
            tokio::time::sleep(TAKE_EVERY).await;
        }
        drop(filler);
        fs::remove_file(&path)?;
        Ok(())
    }

    /// Takes what is free, in ever smaller pieces: some of it is needed to say where the others are.
    fn take(&self, filler: &File, mut taken: i64) -> anyhow::Result<i64> {
        let disk = statvfs(&self.folder)?;
        let block = i64::try_from(disk.fragment_size())?;
        let mut piece = i64::try_from(disk.blocks_free())? * block;
        while piece >= block {
            match fallocate(filler.as_fd(), FallocateFlags::empty(), taken, piece) {
                Ok(()) => taken += piece,
                Err(nix::errno::Errno::ENOSPC) => piece = piece / 2 / block * block,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(taken)
    }
}

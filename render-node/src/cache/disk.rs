//! What the caches of a node have in common: the disk. Whoever finds it full gets room from any of them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sys::statvfs::statvfs;

use super::Inner;

/// One disk and the caches on it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Vec<Weak<Inner>>>>);

impl Disk {
    pub(super) fn joins(&self, cache: &Arc<Inner>) {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|other| other.strong_count() > 0);
        caches.push(Arc::downgrade(cache));
    }

    /// Files that no job reads leave the caches, one cache after the other, until so many bytes are free or no more can go. Whether
    /// any went.
    pub(super) fn make_room(&self, bytes: u64) -> bool {
        let caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut freed = 0;
        for cache in caches.iter().filter_map(Weak::upgrade) {
            if bytes <= freed {
                break;
            }
            freed += cache.free(bytes - freed);
        }
        freed > 0
    }

    /// Makes room for what is about to be written below `folder`, if there is less than `bytes`. Best effort: what cannot be written is
    /// for its writer to say.
    pub fn keep_free(&self, folder: &Path, bytes: u64) {
        let free = match statvfs(folder) {
            Ok(disk) => disk.blocks_available().saturating_mul(disk.fragment_size()),
            Err(error) => {
                tracing::warn!(path = %folder.display(), %error, "free room of the disk is not known");
                return;
            }
        };
        let lacking = bytes.saturating_sub(free);
        if lacking > 0 && self.make_room(lacking) {
            tracing::warn!(
                free,
                "disk is nearly full: files that no job reads left the caches"
            );
        }
    }
}

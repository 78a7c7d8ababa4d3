//! How many files come in, or are fetched for a check, at a time: each fills memory or disk before anything is known of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flowai_actors::ids::UserId;

use crate::error::ApiError;

/// Of all users: a gigabyte each at the most.
const PLACES_MAX: usize = 64;
/// Of one, so that slow uploads of one account are not in the way of everybody's.
const OF_A_USER_MAX: usize = 8;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    taken: Arc<Mutex<HashMap<UserId, usize>>>,
}

/// Free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    user: UserId,
}

impl Places {
    /// # Errors
    /// `Overloaded`.
    pub(crate) fn take(&self, user: UserId) -> Result<Place, ApiError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = taken.get(&user).copied().unwrap_or(0);
        if of_user >= OF_A_USER_MAX || taken.values().sum::<usize>() >= PLACES_MAX {
            return Err(ApiError::Overloaded);
        }
        taken.insert(user, of_user + 1);
        drop(taken);
        let places = self.clone();
        Ok(Place { places, user })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = &self.places.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_user) = taken.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_files_leave_room_for_those_of_others() {
        let places = Places::default();
        let (one, other) = (UserId::generate(), UserId::generate());
        let mut taken: Vec<Place> = (0..OF_A_USER_MAX)
            .map(|_| places.take(one).unwrap())
            .collect();
        assert!(places.take(one).is_err());
        drop(places.take(other).unwrap());
        taken.pop();
        drop(places.take(one).unwrap());
        while taken.len() < PLACES_MAX {
            taken.push(places.take(UserId::generate()).unwrap());
        }
        assert!(places.take(other).is_err());
        drop(taken);
        assert!(places.taken.lock().unwrap().is_empty());
    }
}

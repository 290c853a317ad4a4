//! The lock of a key, which proxy and repair share. Its guard is the permission to change the key.
//!
//! Always true: mutations of one key through one process reach the tracker one after the other, so that
//! versions follow the tracker's order, unless one is not answered for long: then the next goes out beside it, and whoever
//! was passed knows ([`KeyGuard::was_passed`]); two keys are locked in sorted order, so nobody waits in a circle;
//! a client never waits longer than the limit it gives, and repair, which asks with
//! [`KeyLocks::try_lock`] and looks at [`KeyGuard::wanted`], never waits at all, and by a [`Watch`] learns of every
//! client that was at the key since repair looked at it, also of one whose change the journal has delivered and forgotten.
//! Left open: several processes of one datacenter. [`KeyLocks`] is the one place that will know of them.
//! Killed in the middle: locks are memory; the journal's intents tell what was under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::file::FileName;

/// All key locks of this process. Memory follows the number of keys locked right now.
#[derive(Clone, Default)]
pub struct KeyLocks {
    slots: Arc<DashMap<FileName, Arc<Slot>>>,
}

struct Slot {
    mutex: Arc<Mutex<()>>,
    /// Guards and waiters; the slot leaves the map with the last of them.
    users: AtomicUsize,
    /// Waiters of [`KeyLocks::lock`].
    waiting: AtomicUsize,
    /// Guards ever given.
    turns: AtomicU64,
    /// Guards of [`KeyLocks::lock`]: more than one where some went on beside the others.
    clients: AtomicUsize,
    /// How many of these guards have been released, as far as the slot remembers.
    released: AtomicUsize,
}

/// The permission to change the files it names. Released when dropped.
pub struct KeyGuard {
    held: Vec<Held>,
}

struct Held {
    /// `None` when the limit passed first: the caller goes on beside whoever holds the lock.
    _permit: Option<OwnedMutexGuard<()>>,
    /// Of a client's guard.
    _client: Option<AtKey>,
    user: User,
    /// The slot's `turns` when this one was given.
    turn: u64,
}

impl Held {
    fn begin(permit: Option<OwnedMutexGuard<()>>, client: Option<AtKey>, user: User) -> Self {
        let turn = user.slot.turns.fetch_add(1, Ordering::AcqRel) + 1;
        Self {
            _permit: permit,
            _client: client,
            user,
            turn,
        }
    }
}

/// One user of a slot; takes the slot out of the map when it was the last.
struct User {
    file: FileName,
    slot: Arc<Slot>,
    slots: Arc<DashMap<FileName, Arc<Slot>>>,
}

impl KeyLocks {
    /// For a client's mutation: waits for each key up to `limit`, then goes on without it
    /// ([`KeyGuard::overran`]): what the tracker then holds settles both mutations.
    pub async fn lock(&self, files: &[&FileName], limit: Duration) -> KeyGuard {
        let deadline = tokio::time::Instant::now() + limit;
        let mut held = Vec::with_capacity(files.len());
        for file in sorted(files) {
            let user = self.user(file);
            let permit = match Arc::clone(&user.slot.mutex).try_lock_owned() {
                Ok(permit) => Some(permit),
                Err(_busy) => {
                    let waiting = Waiting::begin(&user.slot);
                    let lock = Arc::clone(&user.slot.mutex).lock_owned();
                    let permit = tokio::time::timeout_at(deadline, lock).await.ok();
                    drop(waiting);
                    permit
                }
            };
            let client = AtKey::begin(&user.slot);
            held.push(Held::begin(permit, Some(client), user));
        }
        KeyGuard { held }
    }

    /// For repair: all keys at once or none, without waiting. None also while a client is at a key that went on
    /// beside another.
    pub fn try_lock(&self, files: &[&FileName]) -> Option<KeyGuard> {
        let mut held = Vec::with_capacity(files.len());
        for file in sorted(files) {
            let user = self.user(file);
            let permit = Arc::clone(&user.slot.mutex).try_lock_owned().ok()?;
            if user.slot.clients.load(Ordering::Acquire) > 0 {
                return None;
            }
            held.push(Held::begin(Some(permit), None, user));
        }
        Some(KeyGuard { held })
    }

    /// Remembers from now on whether clients were at the key.
    pub fn watch(&self, file: &FileName) -> Watch {
        let user = self.user(file);
        let seen = user.slot.released.load(Ordering::Acquire);
        Watch { user, seen }
    }

    /// Keys that somebody holds, waits for or watches now.
    pub fn in_use(&self) -> usize {
        self.slots.len()
    }

    fn user(&self, file: &FileName) -> User {
        let slot = self.slots.entry(file.clone()).or_insert_with(|| {
            Arc::new(Slot {
                mutex: Arc::new(Mutex::new(())),
                users: AtomicUsize::new(0),
                waiting: AtomicUsize::new(0),
                turns: AtomicU64::new(0),
                clients: AtomicUsize::new(0),
                released: AtomicUsize::new(0),
            })
        });
        // Counted while the map's entry is held, so that nobody removes the slot in between.
        slot.users.fetch_add(1, Ordering::AcqRel);
        User {
            file: file.clone(),
            slot: Arc::clone(&slot),
            slots: Arc::clone(&self.slots),
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.slots.remove_if(&self.file, |_, slot| {
            slot.users.fetch_sub(1, Ordering::AcqRel) == 1
        });
    }
}

/// Counts one waiting client, also when its wait is dropped half way.
struct Waiting<'a>(&'a Slot);

impl<'a> Waiting<'a> {
    fn begin(slot: &'a Slot) -> Self {
        slot.waiting.fetch_add(1, Ordering::AcqRel);
        Self(slot)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts one client's guard, until the lock is released.
struct AtKey(Arc<Slot>);

impl AtKey {
    fn begin(slot: &Arc<Slot>) -> Self {
        slot.clients.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(slot))
    }
}

impl Drop for AtKey {
    fn drop(&mut self) {
        self.0.released.fetch_add(1, Ordering::AcqRel);
        self.0.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An eye on one key: what was learned of the key after the watch began holds as long as it is untouched.
pub struct Watch {
    user: User,
    seen: usize,
}

impl Watch {
    /// Whether no client has released the key since. Asked under the key's lock it says that none was at it at all.
    pub fn is_untouched(&self) -> bool {
        self.user.slot.released.load(Ordering::Acquire) == self.seen
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.user.file)
    }
}

impl KeyGuard {
    /// Whether a key was taken though somebody else still holds it, because the limit had passed.
    pub fn overran(&self) -> bool {
        self.held.iter().any(|held| held._permit.is_none())
    }

    /// Whether somebody else has begun on one of these keys meanwhile, because a limit had passed: then nobody can
    /// tell from the answers which of the two came last.
    pub fn was_passed(&self) -> bool {
        self.held
            .iter()
            .any(|held| held.user.slot.turns.load(Ordering::Acquire) != held.turn)
    }

    /// Whether a client waits for one of these keys: repair then gives way.
    pub fn wanted(&self) -> bool {
        self.held
            .iter()
            .any(|held| held.user.slot.waiting.load(Ordering::Acquire) > 0)
    }

    /// Whether the guard covers `file`.
    pub fn covers(&self, file: &FileName) -> bool {
        self.held.iter().any(|held| held.user.file == *file)
    }
}

fn sorted<'a>(files: &[&'a FileName]) -> Vec<&'a FileName> {
    let mut sorted = files.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(key: &str) -> FileName {
        FileName::from_bytes(b"photos", key.as_bytes())
    }

    #[tokio::test]
    async fn a_key_is_held_by_one_and_memory_is_given_back() {
        let locks = KeyLocks::default();
        let (a, b) = (file("a"), file("b"));
        let guard = locks.lock(&[&b, &a], Duration::from_secs(9)).await;
        assert!(!guard.overran() && guard.covers(&a) && guard.covers(&b));
        assert!(locks.try_lock(&[&a]).is_none());
        drop(guard);
        assert!(locks.try_lock(&[&a]).is_some());
        assert_eq!(locks.in_use(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_sees_every_client_and_repair_waits_for_those_who_went_on_beside() {
        let locks = KeyLocks::default();
        let (a, limit) = (file("a"), Duration::from_secs(5));
        let watch = locks.watch(&a);
        drop(locks.try_lock(&[&a]).expect("nobody holds it"));
        assert!(watch.is_untouched(), "repair itself is no client");
        drop(locks.lock(&[&a], limit).await);
        assert!(!watch.is_untouched());
        drop(watch);

        let first = locks.lock(&[&a], limit).await;
        let second = locks.lock(&[&a], limit).await;
        let watch = locks.watch(&a);
        assert!(second.overran());
        drop(first);
        assert!(!watch.is_untouched(), "it was there when the watch began");
        assert!(locks.try_lock(&[&a]).is_none(), "the second is still there");
        drop(second);
        assert!(locks.try_lock(&[&a]).is_some());
        drop(watch);
        assert_eq!(locks.in_use(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_no_longer_than_its_limit_and_says_that_it_waits() {
        let locks = KeyLocks::default();
        let a = file("a");
        let repair = locks.try_lock(&[&a]).expect("nobody holds it");
        assert!(!repair.wanted());
        let (other, name) = (locks.clone(), a.clone());
        let client =
            tokio::spawn(async move { other.lock(&[&name], Duration::from_secs(5)).await });
        while !repair.wanted() {
            tokio::task::yield_now().await;
        }
        assert!(!repair.was_passed());
        let client = client.await.expect("no panic");
        assert!(client.overran() && !client.was_passed());
        assert!(!repair.wanted() && repair.was_passed());
        drop(repair);
        // The next one has the lock to itself, and yet is beside the client that never had it.
        let next = locks.lock(&[&a], Duration::from_secs(5)).await;
        assert!(client.was_passed() && !next.overran() && !next.was_passed());
        drop((client, next));
        assert_eq!(locks.in_use(), 0);
    }
}

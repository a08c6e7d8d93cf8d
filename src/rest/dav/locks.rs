//! Locks of WebDAV clients (RFC 4918, 6 and 7): who wants to write without others in between says so. Those of the crate
//! dav-server never end, whatever it tells the client; and it looks for them by recursion, which takes all of the stack, and
//! the process with it, where a path is long.

use dav_server::davpath::DavPath;
use dav_server::ls::{DavLock, DavLockSystem, LsFuture};
use futures_util::FutureExt;
use futures_util::future::ready;
use parking_lot::Mutex;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xmltree::Element;

/// A lock ends after this, or sooner if that is wanted, unless its client asks for it again: most go away without a word.
const LONGEST: Duration = Duration::from_secs(600);
/// So many at once; who comes then finds everything locked.
const MOST: usize = 1024;
/// What a client says of itself is kept for others to see when it has at most so many bytes.
const MOST_OWNER: usize = 4096;

/// The locks of all clients.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks(Arc<Mutex<Vec<Held>>>);

#[derive(Debug)]
struct Held {
    lock: DavLock,
    end: Instant,
}

impl Locks {
    /// Look at those that have not ended.
    fn with<'a, T: Send + 'a>(&'a self, look: impl FnOnce(&mut Vec<Held>) -> T) -> LsFuture<'a, T> {
        let mut held = self.0.lock();
        let now = Instant::now();
        held.retain(|each| each.end > now);
        ready(look(&mut held)).boxed()
    }
}

impl DavLockSystem for Locks {
    fn lock(
        &'_ self,
        path: &DavPath,
        principal: Option<&str>,
        owner: Option<&Element>,
        timeout: Option<Duration>,
        shared: bool,
        deep: bool,
    ) -> LsFuture<'_, Result<DavLock, DavLock>> {
        self.with(|held| {
            let in_the_way = |each: &&Held| each.touches(path, deep) && !(shared && each.lock.shared);
            let full = if held.len() < MOST { None } else { held.first() };
            if let Some(other) = held.iter().find(in_the_way).or(full) {
                return Err(other.lock.clone());
            }
            let lock = DavLock {
                token: token(),
                path: Box::new(path.clone()),
                principal: principal.map(str::to_owned),
                owner: owner.filter(|owner| is_short(owner)).map(|owner| Box::new(owner.clone())),
                timeout_at: None,
                timeout: None,
                shared,
                deep,
            };
            let new = Held::until(lock, timeout);
            let lock = new.lock.clone();
            held.push(new);
            Ok(lock)
        })
    }

    fn unlock(&'_ self, path: &DavPath, token: &str) -> LsFuture<'_, Result<(), ()>> {
        self.with(|held| {
            let at = held.iter().position(|each| each.lock.token == token && each.covers(path));
            at.map(|at| drop(held.swap_remove(at))).ok_or(())
        })
    }

    fn refresh(&'_ self, path: &DavPath, token: &str, timeout: Option<Duration>) -> LsFuture<'_, Result<DavLock, ()>> {
        self.with(|held| {
            let again = held.iter_mut().find(|each| each.lock.token == token && each.covers(path)).ok_or(())?;
            *again = Held::until(again.lock.clone(), timeout);
            Ok(again.lock.clone())
        })
    }

    /// Whether who has these tokens may change what is there, and with `deep` what is in it. The crate leaves the principal
    /// out when it asks something else: whether one of these tokens locks what is there, as a condition of the request says.
    fn check(
        &'_ self,
        path: &DavPath,
        _principal: Option<&str>,
        is_condition: bool,
        deep: bool,
        tokens: &[String],
    ) -> LsFuture<'_, Result<(), DavLock>> {
        self.with(|held| {
            let has = |each: &&Held| tokens.contains(&each.lock.token);
            if is_condition {
                let holds = held.iter().any(|each| has(&each) && each.covers(path));
                return if holds { Ok(()) } else { Err(nothing(path)) };
            }
            let touched: Vec<&Held> = held.iter().filter(|each| each.touches(path, deep)).collect();
            // One of those who share a lock needs no consent of the others.
            let shares = touched.iter().any(has);
            let other = touched.iter().find(|each| !(has(each) || each.lock.shared && shares));
            other.map_or(Ok(()), |each| Err(each.lock.clone()))
        })
    }

    fn discover(&'_ self, path: &DavPath) -> LsFuture<'_, Vec<DavLock>> {
        self.with(|held| held.iter().filter(|each| each.covers(path)).map(|each| each.lock.clone()).collect())
    }

    fn delete(&'_ self, path: &DavPath) -> LsFuture<'_, Result<(), ()>> {
        self.with(|held| {
            held.retain(|each| !is_in(&each.lock.path, path));
            Ok(())
        })
    }
}

impl Held {
    fn until(mut lock: DavLock, timeout: Option<Duration>) -> Held {
        let timeout = timeout.map_or(LONGEST, |timeout| timeout.min(LONGEST));
        lock.timeout = Some(timeout);
        Held { lock, end: Instant::now() + timeout }
    }

    /// What is at `path` is locked by it.
    fn covers(&self, path: &DavPath) -> bool {
        same(&self.lock.path) == same(path) || (self.lock.deep && is_in(path, &self.lock.path))
    }

    /// The same, or with `deep` something in it.
    fn touches(&self, path: &DavPath, deep: bool) -> bool {
        self.covers(path) || (deep && is_in(&self.lock.path, path))
    }
}

/// A folder may be named with a slash at the end.
fn same(path: &DavPath) -> &[u8] {
    path.as_bytes().strip_suffix(b"/").unwrap_or(path.as_bytes())
}

/// Whether `path` is `around`, or something in it.
fn is_in(path: &DavPath, around: &DavPath) -> bool {
    let rest = same(path).strip_prefix(same(around));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn is_short(owner: &Element) -> bool {
    let mut xml = Vec::new();
    owner.write(&mut xml).is_ok() && xml.len() <= MOST_OWNER
}

/// A name that no other lock has: a random UUID (RFC 9562, 5.4).
fn token() -> String {
    let mut bytes = [0; 16];
    // It waits at most until the machine has collected some entropy after its start, and cannot fail for so few bytes.
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert_eq!(filled, Ok(bytes.len()));
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = "urn:uuid:".to_owned();
    for (i, byte) in bytes.iter().enumerate() {
        let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
        write!(text, "{dash}{byte:02x}").unwrap_or_default();
    }
    text
}

/// What stands in the way where a lock is wanted and there is none.
fn nothing(path: &DavPath) -> DavLock {
    DavLock {
        token: String::new(),
        path: Box::new(path.clone()),
        principal: None,
        owner: None,
        timeout_at: None,
        timeout: None,
        shared: false,
        deep: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<T>(answer: LsFuture<'_, T>) -> T {
        answer.now_or_never().unwrap()
    }

    fn path(text: &str) -> DavPath {
        DavPath::new(text).unwrap()
    }

    fn take(locks: &Locks, at: &str, shared: bool, deep: bool) -> Option<String> {
        now(locks.lock(&path(at), None, None, None, shared, deep)).ok().map(|lock| lock.token)
    }

    #[test]
    fn a_lock_keeps_others_from_what_it_covers() {
        let locks = Locks::default();
        let token = take(&locks, "/b/a", false, true).unwrap();
        let check = |at: &str, deep: bool, tokens: &[String], expect: bool| {
            let may = now(locks.check(&path(at), None, false, deep, tokens)).is_ok();
            assert_eq!(may, expect, "{at} {deep} {tokens:?}");
        };
        for (at, free) in [("/b/a", false), ("/b/a/", false), ("/b/a/c", false), ("/b/ab", true), ("/b", true)] {
            check(at, false, &[], free);
            check(at, false, std::slice::from_ref(&token), true);
        }
        check("/b/", true, &[], false);
        check("/b/", true, std::slice::from_ref(&token), true);
        assert_eq!(take(&locks, "/b", false, true), None);
        assert_eq!(take(&locks, "/b/a/c", true, false), None);
        assert!(take(&locks, "/b", false, false).is_some(), "a folder alone, and what is in it");
        assert_eq!(now(locks.discover(&path("/b/a/c"))).len(), 1);
        assert_eq!(now(locks.unlock(&path("/b/ab"), &token)), Err(()));
        assert_eq!(now(locks.unlock(&path("/b/a"), &token)), Ok(()));
        check("/b/a", false, &[], true);
    }

    #[test]
    fn some_may_share_a_lock() {
        let locks = Locks::default();
        let (one, two) = (take(&locks, "/a", true, false).unwrap(), take(&locks, "/a", true, false).unwrap());
        assert_eq!(take(&locks, "/a", false, false), None);
        assert!(now(locks.check(&path("/a"), None, false, false, &[])).is_err());
        assert!(now(locks.check(&path("/a"), None, false, false, &[one])).is_ok());
        assert!(now(locks.check(&path("/a"), None, true, false, &[two])).is_ok());
    }

    #[test]
    fn a_lock_ends_and_a_condition_knows() {
        let locks = Locks::default();
        let lock = |timeout| now(locks.lock(&path("/a"), None, None, timeout, false, false)).unwrap();
        let ended = lock(Some(Duration::ZERO));
        assert!(now(locks.check(&path("/a"), None, false, false, &[])).is_ok());
        assert!(now(locks.check(&path("/a"), None, true, false, &[ended.token])).is_err(), "nothing is locked by it");
        let held = lock(Some(LONGEST * 2));
        assert_eq!(held.timeout, Some(LONGEST));
        assert!(now(locks.check(&path("/a"), None, true, false, std::slice::from_ref(&held.token))).is_ok());
        assert_eq!(now(locks.refresh(&path("/a"), &held.token, None)).unwrap().timeout, Some(LONGEST));
        now(locks.delete(&path("/"))).unwrap();
        assert!(now(locks.refresh(&path("/a"), &held.token, None)).is_err());
    }

    #[test]
    fn locks_are_not_without_end_in_number_or_size() {
        let locks = Locks::default();
        assert!((0..MOST).all(|i| take(&locks, &format!("/{i}"), false, false).is_some()));
        assert_eq!(take(&locks, "/more", false, false), None);
        let mut owner = Element::new("owner");
        assert!(is_short(&owner));
        owner.children.push(xmltree::XMLNode::Text("x".repeat(MOST_OWNER)));
        assert!(!is_short(&owner));
    }
}

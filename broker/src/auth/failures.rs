//! How long a refused login waits: longer for an address that fails again and again.

use crate::{config::Limits, transport::Source};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Addresses whose failures are remembered, at about 60 bytes each: 240 KiB. One more pushes out the address that
/// has been quiet for longest, which then begins with the plain delay again.
const ADDRESSES_MAX: usize = 4_096;

/// After so long without a failure an address begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// The delay doubles so many times: up to eight times the plain one.
const DOUBLINGS_MAX: u32 = 3;

/// Refused logins by network address.
#[derive(Debug)]
pub(crate) struct Failures {
    delay: Duration,
    /// A connection that says nothing holds its place for as long, so that more delay would only help whoever wants
    /// to hold places.
    delay_max: Duration,
    by_address: Mutex<HashMap<Source, Failed>>,
}

#[derive(Debug)]
struct Failed {
    count: u32,
    last: Instant,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Penalty {
    /// Failures of this address so far, this one included.
    pub(crate) count: u32,
    pub(crate) delay: Duration,
    /// Another address was pushed out.
    pub(crate) forgot: bool,
}

impl Failures {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            delay: limits.login_failure_delay,
            delay_max: limits.login_failure_delay.max(limits.handshake_timeout),
            by_address: Mutex::default(),
        }
    }

    /// Notes a refused login and says how long its answer waits. Right logins are never delayed, so that those who
    /// share an address with a client that guesses, or forgets, feel nothing of it.
    pub(crate) fn note(&self, address: IpAddr, now: Instant) -> Penalty {
        let source = Source::new(address);
        let mut by_address = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let forgot = !by_address.contains_key(&source)
            && by_address.len() >= ADDRESSES_MAX
            && make_room(&mut by_address, now);
        let failed = by_address.entry(source).or_insert(Failed {
            count: 0,
            last: now,
        });
        if now.saturating_duration_since(failed.last) >= FORGOTTEN_AFTER {
            failed.count = 0;
        }
        let delay = self.delay * (1 << failed.count.min(DOUBLINGS_MAX));
        let count = failed.count.saturating_add(1);
        *failed = Failed { count, last: now };
        Penalty {
            count,
            delay: delay.min(self.delay_max),
            forgot,
        }
    }
}

/// Forgets what is over, or else the oldest; true if that one was not over.
fn make_room(by_address: &mut HashMap<Source, Failed>, now: Instant) -> bool {
    by_address.retain(|_, failed| now.saturating_duration_since(failed.last) < FORGOTTEN_AFTER);
    if by_address.len() < ADDRESSES_MAX {
        return false;
    }
    let oldest = by_address
        .iter()
        .min_by_key(|(_, failed)| failed.last)
        .map(|(source, _)| *source);
    oldest.is_some_and(|oldest| by_address.remove(&oldest).is_some())
}

#[cfg(test)]
mod tests {
    use super::{ADDRESSES_MAX, FORGOTTEN_AFTER, Failures};
    use crate::config::Limits;
    use std::{
        net::{IpAddr, Ipv4Addr},
        time::{Duration, Instant},
    };

    fn failures() -> Failures {
        Failures::new(&Limits {
            login_failure_delay: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(6),
            ..Limits::default()
        })
    }

    fn delays(failures: &Failures, address: &str, now: Instant, count: usize) -> Vec<u64> {
        let address = address.parse().unwrap();
        (0..count)
            .map(|_| failures.note(address, now).delay.as_secs())
            .collect()
    }

    #[test]
    fn the_delay_doubles_to_its_bound_and_is_forgotten() {
        let (failures, now) = (failures(), Instant::now());
        assert_eq!(delays(&failures, "192.0.2.1", now, 5), [1, 2, 4, 6, 6]);
        // Another address, and the same in other clothes.
        assert_eq!(delays(&failures, "192.0.2.2", now, 1), [1]);
        assert_eq!(delays(&failures, "::ffff:192.0.2.2", now, 1), [2]);
        let soon = now + FORGOTTEN_AFTER.saturating_sub(Duration::from_secs(1));
        assert_eq!(delays(&failures, "192.0.2.1", soon, 1), [6]);
        assert_eq!(
            delays(&failures, "192.0.2.1", soon + FORGOTTEN_AFTER, 2),
            [1, 2]
        );
    }

    #[test]
    fn without_a_bound_in_the_way_it_doubles_three_times() {
        let failures = Failures::new(&Limits {
            handshake_timeout: Duration::from_mins(1),
            ..Limits::default()
        });
        let now = Instant::now();
        assert_eq!(delays(&failures, "192.0.2.1", now, 6), [1, 2, 4, 8, 8, 8]);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let (failures, now) = (failures(), Instant::now());
        assert_eq!(delays(&failures, "2001:db8::1", now, 1), [1]);
        assert_eq!(delays(&failures, "2001:db8::ffff:2", now, 1), [2]);
        assert_eq!(delays(&failures, "2001:db8:0:1::1", now, 1), [1]);
    }

    #[test]
    fn the_oldest_is_pushed_out() {
        let (failures, now) = (failures(), Instant::now());
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).unwrap()));
        let at = |n: usize| now + Duration::from_millis(n as u64);
        for n in 0..ADDRESSES_MAX {
            assert!(!failures.note(address(n), at(n)).forgot);
        }
        assert!(
            failures
                .note(address(ADDRESSES_MAX), at(ADDRESSES_MAX))
                .forgot
        );
        let size = || failures.by_address.lock().unwrap().len();
        assert_eq!(size(), ADDRESSES_MAX);
        // The first one was, the second one was not.
        assert_eq!(
            failures.note(address(1), at(ADDRESSES_MAX)).delay.as_secs(),
            2
        );
        let again = failures.note(address(0), at(ADDRESSES_MAX));
        assert_eq!((again.delay.as_secs(), again.forgot), (1, true));
        // What is over makes room without being missed.
        let later = at(ADDRESSES_MAX) + 2 * FORGOTTEN_AFTER;
        assert!(!failures.note(address(9_999), later).forgot);
        assert_eq!(size(), 1);
    }
}

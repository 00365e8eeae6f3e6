//! How much of the broker one network address may take: connections open, connections a second, handshakes under way.

use crate::config::Limits;
use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Addresses whose connect rate is remembered, at about 50 bytes each: 200 KiB. An address is forgotten once its bucket is
/// full again, two seconds after its last connection at most, so that it takes 2,000 new addresses a second to push one
/// out early; and what that one gains is one burst.
const RATES_MAX: usize = 4_096;

/// The size of a burst: as many connections as two seconds allow.
const BURST_SECONDS: u32 = 2;

/// Whom a bound is about: an IPv4 address, or the 64 bits of an IPv6 address that name a network, since whoever has one
/// address there has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            // Neighbours on a link all have the same network's address.
            IpAddr::V6(address) if !address.is_unicast_link_local() => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            whole @ (IpAddr::V4(_) | IpAddr::V6(_)) => whole,
        })
    }
}

/// Why a connection is closed before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many connections have not completed their handshake.
    Handshakes,
    /// Half of those are this address's.
    AddressHandshakes,
    /// Too many connections of this address are open.
    AddressOpen,
    /// This address connects too often.
    Rate,
}

/// The places that connections take, of all listeners together.
#[derive(Debug)]
pub(crate) struct Places {
    handshakes: Arc<Semaphore>,
    open_max: usize,
    handshakes_max: usize,
    handshake_timeout: Duration,
    /// Time that one connection costs.
    interval: Duration,
    loopback_exempt: bool,
    addresses: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    /// Addresses with connections: no more than there are sockets.
    counts: HashMap<Source, Counts>,
    /// When each bucket is full again. [`RATES_MAX`] at most.
    full_at: HashMap<Source, Instant>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    open: usize,
    handshakes: usize,
}

/// The place of a connection that has not completed its handshake.
#[derive(Debug)]
pub(crate) struct HandshakePlace {
    /// By when CONNECT must be complete.
    pub(crate) deadline: Instant,
    /// Whose connection it is, which counts when logins fail.
    pub(crate) peer: IpAddr,
    _permit: OwnedSemaphorePermit,
    address: Option<(Arc<Places>, Source)>,
}

/// The place of an open connection among those of its address.
#[derive(Debug)]
pub(crate) struct AddressPlace {
    places: Arc<Places>,
    source: Source,
}

impl Places {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
            open_max: limits.connections_per_address_max,
            // Half, rounded up: one place must do if there is only one.
            handshakes_max: limits.handshakes_max.div_ceil(2),
            handshake_timeout: limits.handshake_timeout,
            interval: Duration::from_secs(1) / limits.connects_per_second_max,
            loopback_exempt: limits.loopback_exempt,
            addresses: Mutex::default(),
        }
    }

    /// Takes the places of a new connection. There is no second one for an address that is exempt.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Result<(HandshakePlace, Option<AddressPlace>), Refused> {
        let take = || Arc::clone(&self.handshakes).try_acquire_owned();
        if self.loopback_exempt && address.to_canonical().is_loopback() {
            let permit = take().map_err(|_| Refused::Handshakes)?;
            let place = HandshakePlace {
                deadline: now + self.handshake_timeout,
                peer: address,
                _permit: permit,
                address: None,
            };
            return Ok((place, None));
        }
        let source = Source::new(address);
        let mut addresses = self.lock();
        addresses.pay(source, self.interval, now)?;
        let counts = addresses.counts.get(&source).copied().unwrap_or_default();
        if counts.open >= self.open_max {
            return Err(Refused::AddressOpen);
        }
        if counts.handshakes >= self.handshakes_max {
            return Err(Refused::AddressHandshakes);
        }
        let permit = take().map_err(|_| Refused::Handshakes)?;
        let counts = addresses.counts.entry(source).or_default();
        counts.open += 1;
        counts.handshakes += 1;
        let place = HandshakePlace {
            deadline: now + self.handshake_timeout,
            peer: address,
            _permit: permit,
            address: Some((Arc::clone(self), source)),
        };
        let places = Arc::clone(self);
        Ok((place, Some(AddressPlace { places, source })))
    }

    fn leave(&self, source: Source, change: impl FnOnce(&mut Counts)) {
        if let Entry::Occupied(mut entry) = self.lock().counts.entry(source) {
            change(entry.get_mut());
            if *entry.get() == Counts::default() {
                entry.remove();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Addresses> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Addresses {
    /// A token bucket kept as one time (the generic cell rate algorithm, ITU-T I.371): each connection moves the time at
    /// which the bucket is full by `interval`, and an empty bucket is full a burst later.
    fn pay(&mut self, source: Source, interval: Duration, now: Instant) -> Result<(), Refused> {
        let full_at = self.full_at.get(&source).map_or(now, |&at| at.max(now)) + interval;
        if full_at > now + Duration::from_secs(BURST_SECONDS.into()) {
            return Err(Refused::Rate);
        }
        if self.full_at.insert(source, full_at).is_none() && self.full_at.len() > RATES_MAX {
            self.full_at.retain(|_, at| *at > now);
            let oldest = self.full_at.iter().min_by_key(|(_, at)| **at);
            if let Some((&oldest, _)) = oldest.filter(|_| self.full_at.len() > RATES_MAX) {
                self.full_at.remove(&oldest);
            }
        }
        Ok(())
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        if let Some((places, source)) = &self.address {
            places.leave(*source, |counts| counts.handshakes -= 1);
        }
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        self.places.leave(self.source, |counts| counts.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::{Places, RATES_MAX, Refused};
    use crate::config::Limits;
    use std::{
        net::IpAddr,
        sync::Arc,
        time::{Duration, Instant},
    };

    fn places(open: usize, per_second: u32, handshakes: usize) -> Arc<Places> {
        Arc::new(Places::new(&Limits {
            connections_per_address_max: open,
            connects_per_second_max: per_second,
            handshakes_max: handshakes,
            ..Limits::default()
        }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections() {
        let places = places(2, 1_000, 100);
        let now = Instant::now();
        let enter = |address| places.enter(ip(address), now);
        let (handshake, first) = enter("192.0.2.1").unwrap();
        // The same address in the clothes of IPv6.
        let _second = enter("::ffff:192.0.2.1").unwrap();
        drop(handshake);
        assert_eq!(enter("192.0.2.1").unwrap_err(), Refused::AddressOpen);
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        let _third = enter("192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Refused::AddressOpen);
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let places = places(1, 1_000, 100);
        let now = Instant::now();
        let _first = places.enter(ip("2001:db8::1"), now).unwrap();
        assert_eq!(
            places.enter(ip("2001:db8::ffff:2"), now).unwrap_err(),
            Refused::AddressOpen
        );
        assert!(places.enter(ip("2001:db8:0:1::1"), now).is_ok());
        let _neighbour = places.enter(ip("fe80::1"), now).unwrap();
        assert!(places.enter(ip("fe80::2"), now).is_ok());
    }

    #[test]
    fn loopback_is_exempt_from_all_but_the_total() {
        let places = places(1, 1, 5);
        let now = Instant::now();
        let held: Vec<_> = ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1", "::1"]
            .map(|address| places.enter(ip(address), now).unwrap())
            .into();
        assert!(held.iter().all(|(_, place)| place.is_none()));
        assert_eq!(
            places.enter(ip("::1"), now).unwrap_err(),
            Refused::Handshakes
        );
    }

    #[test]
    fn one_address_has_half_of_the_handshakes() {
        let places = places(100, 1_000, 5);
        let now = Instant::now();
        let mut held: Vec<_> = (0..3)
            .map(|_| places.enter(ip("192.0.2.1"), now).unwrap())
            .collect();
        assert_eq!(
            places.enter(ip("192.0.2.1"), now).unwrap_err(),
            Refused::AddressHandshakes
        );
        held.extend((0..2).map(|_| places.enter(ip("192.0.2.2"), now).unwrap()));
        assert_eq!(
            places.enter(ip("192.0.2.3"), now).unwrap_err(),
            Refused::Handshakes
        );
        // A completed handshake gives its place back while the connection stays open.
        let (handshake, _open) = held.remove(0);
        drop(handshake);
        assert!(places.enter(ip("192.0.2.1"), now).is_ok());
    }

    #[test]
    fn the_rate_has_a_burst_and_then_its_pace() {
        let places = places(1_000, 10, 1_000);
        let now = Instant::now();
        let at = |ms| {
            let place = places.enter(ip("192.0.2.1"), now + Duration::from_millis(ms));
            place.map(drop)
        };
        for _ in 0..20 {
            assert_eq!(at(0), Ok(()));
        }
        assert_eq!(at(0), Err(Refused::Rate));
        assert_eq!(at(99), Err(Refused::Rate));
        assert_eq!((at(100), at(100)), (Ok(()), Err(Refused::Rate)));
        for _ in 0..20 {
            assert_eq!(at(10_000), Ok(()));
        }
        assert_eq!(at(10_000), Err(Refused::Rate));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_given_back() {
        let places = places(4, 50, 100);
        let now = Instant::now();
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..3 * RATES_MAX {
            let now = now + Duration::from_micros(number as u64);
            drop(places.enter(address(0x0a00_0000 + number), now).unwrap());
        }
        let addresses = places.lock();
        assert_eq!(
            (addresses.counts.len(), addresses.full_at.len()),
            (0, RATES_MAX)
        );
        // The oldest had to go.
        let newest = super::Source::new(address(0x0a00_0000 + 3 * RATES_MAX - 1));
        let oldest = super::Source::new(address(0x0a00_0000));
        assert!(addresses.full_at.contains_key(&newest));
        assert!(!addresses.full_at.contains_key(&oldest));
        drop(addresses);
        drop(
            places
                .enter(address(1), now + Duration::from_secs(9))
                .unwrap(),
        );
        assert_eq!(places.lock().full_at.len(), 1);
    }
}

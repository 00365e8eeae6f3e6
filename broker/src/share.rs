//! Shared subscriptions: groups of subscribers of which one gets each message (MQTT 5, section 4.8.2).
//!
//! Each member has a log of its own. A publisher picks a member and appends to that log only, in turn, passing by
//! members that lag, are slow, or whose client is away, as long as there is another.

use crate::{
    router::Hold,
    subscriptions::{Channel, Reader},
};
use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicUsize, Ordering},
};

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Box<str>,
    pub(crate) filter: Arc<str>,
    members: RwLock<Vec<Member>>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Member {
    channel: Arc<Channel>,
    reader: Arc<Reader>,
    /// The router reads this member's log: what is appended from now on reaches it.
    in_force: bool,
}

/// How well a member suits; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    Ready,
    Lags(u64),
    Slow(u64),
    Absent(u64),
}

impl Group {
    pub(crate) fn new(name: &str, filter: Arc<str>) -> Self {
        Self {
            name: name.into(),
            filter,
            members: RwLock::default(),
            turn: AtomicUsize::new(0),
        }
    }

    pub(crate) fn join(&self, channel: &Arc<Channel>, reader: &Arc<Reader>) {
        self.write().push(Member {
            channel: Arc::clone(channel),
            reader: Arc::clone(reader),
            in_force: false,
        });
    }

    /// Lets publishers pick this member.
    pub(crate) fn put_in_force(&self, channel: &Arc<Channel>) {
        for member in &mut *self.write() {
            member.in_force |= Arc::ptr_eq(&member.channel, channel);
        }
    }

    /// Takes a member away; nobody picks it any more. Returns whether the group is empty.
    pub(crate) fn leave(&self, channel: &Arc<Channel>) -> bool {
        let mut members = self.write();
        members.retain(|member| !Arc::ptr_eq(&member.channel, channel));
        members.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// The member whose turn it is, not one of the subscriber `except`. The hold is taken before a member can leave, so
    /// that one that leaves knows of every message that is still to be appended to its log.
    pub(crate) fn pick(&self, except: Option<u32>) -> Option<(Arc<Channel>, Hold)> {
        let members = self.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<(Fitness, &Member)> = None;
        for offset in 0..members.len() {
            let member = &members[turn.wrapping_add(offset) % members.len()];
            if !member.in_force || except == Some(member.reader.subscriber.id) {
                continue;
            }
            let fitness = member.fitness();
            if best.is_none_or(|(least, _)| fitness < least) {
                best = Some((fitness, member));
            }
            if fitness == Fitness::Ready {
                break;
            }
        }
        best.map(|(_, member)| {
            let hold = Hold::new(&member.channel.log);
            (Arc::clone(&member.channel), hold)
        })
    }

    // Each change is a single one, so that a panic leaves nothing half done.
    fn read(&self) -> RwLockReadGuard<'_, Vec<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Member>> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn fitness(&self) -> Fitness {
        let lag = self.reader.lag(&self.channel.log);
        if self.reader.subscriber.is_absent() {
            Fitness::Absent(lag)
        } else if self.reader.subscriber.is_slow() {
            Fitness::Slow(lag)
        } else if self.channel.is_high(lag) {
            Fitness::Lags(lag)
        } else {
            Fitness::Ready
        }
    }
}

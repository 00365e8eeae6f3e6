//! Who has which session: client ids, the clients that are connected, and those that are away.
//!
//! An id leads to one session at a time, and a session to one task. A connection that wants a session which exists is
//! handed to that task; one that wants a new session waits for the end of the old one.

use super::connect::{Newcomer, settle};
use crate::hub::Hub;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Connections that wait to be taken over by a session's task, which does so at once.
const ATTACHING_MAX: usize = 1;

#[derive(Debug)]
pub(crate) struct Clients {
    connected_max: usize,
    absent_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_id: HashMap<Arc<str>, Entry>,
    connected: usize,
    /// Sessions of clients that are away, by the order in which they left.
    absent: BTreeMap<u64, Arc<str>>,
    departures: u64,
}

#[derive(Debug)]
struct Entry {
    serial: u32,
    /// Whose the session is; `None` is anybody without a name.
    user: Option<Arc<str>>,
    presence: Presence,
    attach: mpsc::Sender<Box<Newcomer>>,
    kick: CancellationToken,
    gone: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Connected,
    /// With the number of its departure.
    Absent(u64),
    /// It was told to end.
    Ending,
}

/// What a client id leads to.
pub(super) enum Found {
    /// Nothing: the place is the caller's.
    Free(Ticket),
    /// A session that goes on with this client.
    Session(mpsc::Sender<Box<Newcomer>>),
    /// A session that ends: look again once this is cancelled.
    Ending(CancellationToken),
    /// Somebody else's session.
    NotOwner,
    /// No place for another client.
    Full,
}

/// The number of sessions by whether their clients are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presences {
    pub(crate) connected: usize,
    pub(crate) absent: usize,
    pub(crate) all: usize,
}

impl Clients {
    pub(crate) fn new(connected_max: usize, absent_max: usize) -> Self {
        Self {
            connected_max,
            absent_max,
            state: Mutex::default(),
        }
    }

    pub(crate) fn count(&self) -> Presences {
        let state = self.lock();
        Presences {
            connected: state.connected,
            absent: state.absent.len(),
            all: state.by_id.len(),
        }
    }

    /// Looks a client's session up for a connection that has shown who it is. With `clean`, an existing one is told to
    /// end; without it, an absent one counts as connected from now on.
    pub(super) fn enter(hub: &Arc<Hub>, newcomer: &Newcomer) -> Found {
        let clients = &hub.clients;
        let id = &newcomer.identity.client_id;
        let mut state = clients.lock();
        let full = state.connected >= clients.connected_max;
        let Some(entry) = state.by_id.get(id) else {
            if full {
                return Found::Full;
            }
            return Found::Free(state.insert(hub, newcomer));
        };
        if entry.user != newcomer.identity.user {
            return Found::NotOwner;
        }
        let (presence, attach) = (entry.presence, entry.attach.clone());
        let (kick, gone) = (entry.kick.clone(), entry.gone.clone());
        match presence {
            Presence::Ending => Found::Ending(gone),
            Presence::Connected | Presence::Absent(_) if newcomer.clean => {
                state.place(id, Presence::Ending);
                kick.cancel();
                Found::Ending(gone)
            }
            Presence::Absent(_) if full => Found::Full,
            Presence::Absent(_) => {
                state.place(id, Presence::Connected);
                Found::Session(attach)
            }
            Presence::Connected => Found::Session(attach),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the lock is given back, a panic included.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, hub: &Arc<Hub>, newcomer: &Newcomer) -> Ticket {
        let (sender, attach) = mpsc::channel(ATTACHING_MAX);
        // A session that the broker's stop ends is woken in the same way.
        let (kick, gone) = (hub.stop.child_token(), CancellationToken::new());
        let client_id = &newcomer.identity.client_id;
        let entry = Entry {
            serial: newcomer.origin,
            user: newcomer.identity.user.clone(),
            presence: Presence::Connected,
            attach: sender,
            kick: kick.clone(),
            gone: gone.clone(),
        };
        self.by_id.insert(Arc::clone(client_id), entry);
        self.connected += 1;
        Ticket {
            attach,
            kick,
            place: Place {
                hub: Arc::clone(hub),
                client_id: Arc::clone(client_id),
                serial: newcomer.origin,
                gone,
            },
        }
    }

    fn place(&mut self, id: &Arc<str>, to: Presence) {
        let Some(entry) = self.by_id.get_mut(id) else {
            return;
        };
        match std::mem::replace(&mut entry.presence, to) {
            Presence::Connected => self.connected -= 1,
            Presence::Absent(departure) => {
                self.absent.remove(&departure);
            }
            Presence::Ending => {}
        }
        match to {
            Presence::Connected => self.connected += 1,
            Presence::Absent(departure) => {
                self.absent.insert(departure, Arc::clone(id));
            }
            Presence::Ending => {}
        }
    }
}

/// What a session's task holds of the registry.
pub(super) struct Ticket {
    // The first field, so that a session whose task panics is forgotten before its channel closes.
    pub(super) place: Place,
    /// Connections that are to go on with the session.
    pub(super) attach: mpsc::Receiver<Box<Newcomer>>,
    /// Cancelled when the session must end: for a new one, for want of room, or because the broker stops.
    pub(super) kick: CancellationToken,
}

impl Ticket {
    /// Gives the client id back. Connections that came too late for this session look for another.
    pub(super) async fn end(self) {
        let Self {
            place, mut attach, ..
        } = self;
        let hub = Arc::clone(&place.hub);
        drop(place);
        attach.close();
        while let Some(newcomer) = attach.recv().await {
            hub.tasks.spawn(settle(newcomer, Arc::clone(&hub)));
        }
    }
}

/// Dropping it gives the client id back and lets those go on that wait for that.
pub(super) struct Place {
    hub: Arc<Hub>,
    client_id: Arc<str>,
    serial: u32,
    gone: CancellationToken,
}

impl Place {
    /// Notes that the client is away. If that is one absent session too many, the one that has been away longest is
    /// told to end.
    pub(super) fn away(&self) {
        let clients = &self.hub.clients;
        let mut state = clients.lock();
        if !state.is(self, Presence::Connected) {
            return;
        }
        state.departures += 1;
        let departure = state.departures;
        state.place(&self.client_id, Presence::Absent(departure));
        if state.absent.len() <= clients.absent_max {
            return;
        }
        if let Some(id) = state.absent.values().next().cloned() {
            state.place(&id, Presence::Ending);
            if let Some(entry) = state.by_id.get(&id) {
                entry.kick.cancel();
            }
            drop(state);
            self.hub.counters.sessions_evicted.bump();
            tracing::warn!(client_id = %id, limit = clients.absent_max, "too many sessions wait for their clients, the oldest is ended");
        }
    }

    /// Notes that the client is there. [`Clients::enter`] has done so already, unless it came at the moment in which
    /// the one before it left.
    pub(super) fn back(&self) {
        let mut state = self.hub.clients.lock();
        let away = state
            .by_id
            .get(&self.client_id)
            .is_some_and(|entry| matches!(entry.presence, Presence::Absent(_)));
        if away {
            state.place(&self.client_id, Presence::Connected);
        }
    }
}

impl State {
    fn is(&self, place: &Place, presence: Presence) -> bool {
        let entry = self.by_id.get(&place.client_id);
        entry.is_some_and(|entry| entry.serial == place.serial && entry.presence == presence)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hub.clients.lock();
        let own = state
            .by_id
            .get(&self.client_id)
            .is_some_and(|entry| entry.serial == self.serial);
        if own {
            state.place(&self.client_id, Presence::Ending);
            state.by_id.remove(&self.client_id);
        }
        drop(state);
        self.gone.cancel();
    }
}

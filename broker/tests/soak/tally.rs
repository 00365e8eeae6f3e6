//! What the crowd did, and what the broker must have counted for it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Counters, beside refusals, that nothing in the crowd's doings moves; and gauges of what is gone with the crowd.
const NEVER: [&str; 17] = [
    "panics",
    "links_abandoned",
    "denied_publishes",
    "denied_subscribes",
    "filters_refused",
    "filters_invalid",
    "handshake_timeouts",
    "keep_alive_timeouts",
    "sessions_evicted",
    "retained_refused",
    "clients",
    "sessions",
    "absent_sessions",
    "queued_messages",
    "queued_bytes",
    "subscriptions",
    "retained_count",
];

/// What the crowd did and saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sockets: AtomicU64,
    pub(crate) connected: AtomicU64,
    /// Broken packets sent on purpose.
    pub(crate) garbage: AtomicU64,
    /// Connections that shared their client id with others on purpose.
    pub(crate) rivals: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) wills: AtomicU64,
    /// Connections that went without a word.
    pub(crate) deaths: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) probes: AtomicU64,
    pub(crate) sessions_tried: AtomicU64,
    pub(crate) sessions_kept: AtomicU64,
    /// Connections that the broker ended before the client did, by what the client saw.
    pub(crate) gone: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Checks what the broker counted against what was done to it.
    pub(crate) fn explain(&self, counters: &BTreeMap<String, u64>) {
        let counted = |name: &str| counters.get(name).copied().unwrap_or(0);
        let did = |what: &AtomicU64| what.load(Relaxed);
        assert_eq!(counted("accepted"), did(&self.sockets), "sockets");
        assert_eq!(counted("connected"), did(&self.connected), "connections");
        let broken = counted("malformed") + counted("protocol_errors") + counted("oversize");
        assert!(broken <= did(&self.garbage), "broken packets");
        // Whoever goes without a word may be back before the broker has noticed, and takes its own place over.
        let silent = did(&self.deaths) + did(&self.stalls) + did(&self.garbage);
        assert!(
            counted("takeovers") <= did(&self.rivals) + silent,
            "takeovers"
        );
        assert!(counted("wills") <= did(&self.wills), "wills");
        assert!(
            counted("slow_disconnects") <= did(&self.stalls),
            "slow clients"
        );
        // Whom the broker sends away has a rival, or has sent nonsense.
        let gone: u64 = self.gone.lock().unwrap().values().sum();
        assert!(
            gone <= counted("takeovers") + did(&self.garbage),
            "ends without a reason"
        );
        for (name, &count) in counters {
            let never = name.starts_with("refused_") || NEVER.contains(&name.as_str());
            assert!(
                !never || count == 0,
                "{name} is {count}, and nothing was done to bring that about"
            );
        }
        let (tried, kept) = (did(&self.sessions_tried), did(&self.sessions_kept));
        assert!(
            tried > 0 && kept == tried,
            "{kept} of {tried} sessions were kept"
        );
        assert!(did(&self.probes) > 0 && did(&self.received) > 0);
    }
}

//! Counters: every refusal, drop and disconnection has a name here, and each name is a field of [`Stats`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the live counters and their snapshot from one list, so that neither can forget a field.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the broker has done since it started. All fields but the last ones, which tell what is there now, only grow.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Network clients connected now.
            pub clients: u64,
            /// Subscriptions of clients and links in force or about to be.
            pub subscriptions: u64,
            /// Retained messages held now.
            pub retained_count: u64,
            /// Bytes of the topics and bodies of the retained messages held now.
            pub retained_bytes: u64,
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            /// Copies the counters; the gauges are left at zero for the caller to fill.
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* ..Stats::default() }
            }
        }
    };
}

counters! {
    /// TCP connections accepted.
    accepted,
    /// Clients that completed the handshake.
    connected,
    /// TCP connections closed at once because too many were open.
    refused_sockets,
    /// CONNECT refused: the limit on clients was reached.
    refused_clients,
    /// CONNECT refused: the router had no link for the client in time.
    refused_links,
    /// CONNECT refused: unknown user or wrong password.
    refused_password,
    /// CONNECT refused: no user name, and anonymous clients are not allowed.
    refused_anonymous,
    /// CONNECT refused: the last will's topic is not allowed to this client.
    refused_will,
    /// CONNECT refused: a client id that cannot be used.
    refused_client_id,
    /// CONNECT refused: a protocol version that is neither 3.1.1 nor 5.
    refused_version,
    /// CONNECT refused: extended authentication, which is not supported.
    refused_auth_method,
    /// Connections that sent no complete CONNECT in time.
    handshake_timeouts,
    /// Connections closed for bytes that are not a well-formed packet.
    malformed,
    /// Connections closed for a well-formed packet at the wrong time or of the wrong kind.
    protocol_errors,
    /// Connections closed for a packet or payload over the limit.
    oversize,
    /// Connections closed because nothing arrived within one and a half keep-alives.
    keep_alive_timeouts,
    /// Connections closed because another client took their client id over.
    takeovers,
    /// Connections closed because they accepted no bytes for the write timeout.
    slow_disconnects,
    /// Connections that ended by a socket error or an end of stream without DISCONNECT.
    lost_connections,
    /// Connection tasks that panicked; the connection was closed and nothing else.
    panics,
    /// Publishes dropped because a rule denies them.
    denied_publishes,
    /// Subscriptions refused because a rule denies them.
    denied_subscribes,
    /// Subscriptions refused because of a limit on filters.
    filters_refused,
    /// Subscriptions refused because the filter is malformed or of a kind that is not supported.
    filters_invalid,
    /// Last wills published.
    wills,
    /// Messages accepted from clients and links.
    messages_in,
    /// Messages handed to clients and links, copies and retained ones included.
    messages_out,
    /// Messages that a subscriber never saw because it read too slowly and the log went on without it.
    lost_slow_subscriber,
    /// Times that a subscriber lagged for so long that publishers stopped to wait for it.
    slow_subscribers,
    /// Messages of shared subscriptions lost because the last member left before it got them.
    shared_dropped,
    /// Messages not sent to a client because they exceed the packet size it accepts.
    dropped_oversize,
    /// Messages that expired before they could be delivered.
    expired,
    /// Retained messages not stored because the store was full.
    retained_refused,
    /// Router links given up because they did not drain in time.
    links_abandoned,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

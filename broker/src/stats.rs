//! Counters: every refusal, drop and disconnection has a name here, and each name is a field of [`Stats`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the live counters and the snapshot from one list, so that neither can forget a field: first what only
/// grows, then, behind the semicolon, the gauges. A name with its text is also a metric, under `metrics`' rules.
macro_rules! counters {
    (
        $($(#[doc = $doc:literal])* $name:ident,)*
        ;
        $($(#[doc = $gauge_doc:literal])* $gauge:ident,)*
    ) => {
        /// What the broker has done since it started, and how it is now.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64,)*
            $($(#[doc = $gauge_doc])* pub $gauge: u64,)*
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

        impl Stats {
            /// Every field with its name and its text, in the order of their declaration.
            pub(crate) fn figures(&self) -> Vec<Figure> {
                vec![
                    $(Figure {
                        name: stringify!($name),
                        text: concat!($($doc),*),
                        kind: Kind::Counter,
                        value: self.$name,
                    },)*
                    $(Figure {
                        name: stringify!($gauge),
                        text: concat!($($gauge_doc),*),
                        kind: Kind::Gauge,
                        value: self.$gauge,
                    },)*
                ]
            }
        }
    };
}

/// One field of [`Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) kind: Kind,
    pub(crate) value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows.
    Counter,
    Gauge,
}

impl Figure {
    /// Why a message was dropped, if this counts dropped messages.
    pub(crate) fn drop_reason(&self) -> Option<&'static str> {
        match self.name {
            "lost_slow_subscriber" => Some("slow_subscriber"),
            "expired" => Some("expired"),
            "shared_dropped" => Some("shared_members_left"),
            name => name.strip_prefix("dropped_"),
        }
    }

    /// Why a connection or a CONNECT was refused, if this counts refusals.
    pub(crate) fn refusal_reason(&self) -> Option<&'static str> {
        self.name.strip_prefix("refused_")
    }
}

counters! {
    /// TCP connections accepted.
    accepted,
    /// Clients that completed the handshake.
    connected,
    /// TCP connections closed at once because too many were open.
    refused_sockets,
    /// Connections closed at once because their address connected too often.
    refused_rate,
    /// Connections closed at once because too many from their address were open.
    refused_address,
    /// Connections closed at once because half of the places for handshakes were their address's.
    refused_address_handshakes,
    /// TLS handshakes completed.
    tls_connections,
    /// TLS handshakes that failed: no TLS, no version or cipher in common, a certificate that is missing or not believed.
    tls_failures,
    /// TLS connections closed because the client's certificate has no name that can be a user's.
    refused_certificate_name,
    /// WebSocket connections opened.
    websocket_connections,
    /// WebSocket requests refused: not a proper one, or its path, sub-protocol or origin is not the listener's.
    websocket_refused,
    /// WebSocket connections closed for a text message, one over the limit, or a frame that is not well-formed.
    websocket_errors,
    /// CONNECT refused: the limit on clients was reached.
    refused_clients,
    /// CONNECT refused: the router had no link for the client in time.
    refused_links,
    /// CONNECT refused: unknown user or wrong password.
    refused_password,
    /// CONNECT refused: the name in the certificate cannot be used, or the user name is another one.
    refused_certificate,
    /// CONNECT refused: the password could not be checked in time.
    refused_unchecked,
    /// Addresses whose failed logins were forgotten early, because too many addresses have some.
    failures_forgotten,
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
    /// CONNECT refused: its answer would be longer than the client allows a packet to be.
    refused_packet_size,
    /// CONNECT refused: the client id belongs to a session of another user.
    refused_owner,
    /// CONNECT refused: the session of the client id before did not end, or was not handed over, in time.
    refused_busy,
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
    /// Connections closed because more messages waited for the client than may.
    overrun_disconnects,
    /// Connections closed, and sessions ended, because the client is no longer admitted.
    revoked_clients,
    /// Subscriptions ended because they are no longer allowed.
    revoked_subscriptions,
    /// Sessions that went on over a new connection.
    sessions_resumed,
    /// Sessions ended because their client was away for too long.
    sessions_expired,
    /// Sessions ended because too many clients were away.
    sessions_evicted,
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
    /// Messages that were not handed to a client because a rule denies their topics to it.
    withheld,
    /// Last wills published.
    wills,
    /// Messages accepted from clients and links.
    messages_in,
    /// Messages handed to clients and links, copies and retained ones included.
    messages_out,
    /// Payload bytes of the messages accepted from clients and links.
    payload_bytes_in,
    /// Payload bytes of the messages handed to clients and links.
    payload_bytes_out,
    /// MQTT packets of every kind from network clients.
    packets_in,
    /// MQTT packets of every kind to network clients.
    packets_out,
    /// Bytes from network clients; inside TLS and WebSocket, not around them.
    bytes_in,
    /// Bytes to network clients; inside TLS and WebSocket, not around them.
    bytes_out,
    /// Messages that a subscriber never saw because it read too slowly and the log went on without it.
    lost_slow_subscriber,
    /// QoS 0 messages dropped because too many waited for a client.
    dropped_queue_qos0,
    /// QoS 1 and 2 messages dropped because too many waited for a client that was away.
    dropped_queue,
    /// Messages dropped because they waited for too long.
    dropped_age,
    /// QoS 0 messages dropped because the client was away.
    dropped_absent_qos0,
    /// QoS 1 and 2 messages dropped because the session they waited in ended.
    dropped_session_end,
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
    /// Retained messages that stay in memory only because their topic or size is over what the disk takes.
    retained_unsavable,
    /// Retained messages that the disk did not give back whole.
    retained_corrupt,
    /// Times the store of retained messages was damaged as a whole and begun afresh.
    retained_stores_lost,
    /// Attempts to write retained messages to the disk that failed; each is repeated.
    retained_save_failures,
    /// Router links given up because they did not drain in time.
    links_abandoned,
    /// Messages that other brokers have taken over bridges.
    bridge_sent,
    /// Messages of other brokers that were published here over bridges.
    bridge_received,
    /// Messages dropped by bridges: too many waited, the other broker refuses them, or their topics do not pass.
    bridge_dropped,
    /// Messages dropped by bridges because they had been here before or had crossed too many of them.
    bridge_loops,
    ;
    /// Network clients connected now.
    clients,
    /// Sessions now, those of clients that are away included.
    sessions,
    /// Sessions now whose clients are away.
    absent_sessions,
    /// Messages held for clients now: queued, or sent and not acknowledged.
    queued_messages,
    /// Bytes of the messages held for clients now, with what holding them takes.
    queued_bytes,
    /// Subscriptions in force now, of clients and links.
    subscriptions,
    /// Retained messages held now, the broker's own apart.
    retained_count,
    /// Bytes of the topics and bodies of the retained messages held now.
    retained_bytes,
    /// Topics whose retained message has changed since it was last written to the disk.
    retained_unsaved,
    /// Seconds since the broker started.
    uptime_seconds,
    /// Bridges connected now.
    bridges_connected,
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

/// Messages and their payload bytes, counted by one task and added to the shared counters now and then.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    messages: u64,
    bytes: u64,
}

impl Tally {
    pub(crate) fn note(&mut self, payload_bytes: usize) {
        self.messages += 1;
        self.bytes += payload_bytes as u64;
    }

    pub(crate) fn settle(&mut self, messages: &Counter, bytes: &Counter) {
        messages.add(std::mem::take(&mut self.messages));
        bytes.add(std::mem::take(&mut self.bytes));
    }
}

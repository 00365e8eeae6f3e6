//! The listeners: accept connections within bounds, establish their transport, and start a session for each.

use crate::{
    hub::Hub,
    session::{self, Arrival},
    transport::{AddressPlace, HandshakePlace, Places, Refused, Transport},
};
use futures_util::FutureExt as _;
use socket2::{SockRef, TcpKeepalive};
use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};
use tracing::{Instrument, debug, debug_span, warn};

/// How long to wait after the system refused a connection, usually for want of file descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Silence after which the system asks whether the peer's machine is there. It is the only notice of one that vanished,
/// for clients without a keep-alive to which nothing is sent.
const PROBE_AFTER: Duration = Duration::from_mins(1);

/// What one listener works with.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) listener: TcpListener,
    pub(crate) transport: Arc<Transport>,
    /// Shared by all listeners of the broker.
    pub(crate) places: Arc<Places>,
}

/// Accepts connections until the broker stops. At most `clients_max + handshakes_max` sockets are open: each has a
/// handshake's place until it has a client's.
pub(crate) async fn run(entrance: Entrance, hub: Arc<Hub>) {
    loop {
        let accepted = tokio::select! {
            () = hub.stop.cancelled() => return,
            accepted = entrance.listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        hub.counters.accepted.bump();
        match entrance.places.enter(peer.ip(), Instant::now()) {
            Ok(places) => {
                prepare(&stream, peer);
                let transport = Arc::clone(&entrance.transport);
                let serve = serve(stream, transport, places, Arc::clone(&hub));
                hub.tasks
                    .spawn(serve.instrument(debug_span!("client", %peer)));
            }
            Err(refused) => count(&hub, peer, refused),
        }
    }
}

async fn serve(
    stream: TcpStream,
    transport: Arc<Transport>,
    (place, address_place): (HandshakePlace, Option<AddressPlace>),
    hub: Arc<Hub>,
) {
    // On the heap, so that its state does not stay with the session.
    let establish = Box::pin(AssertUnwindSafe(transport.establish(stream, &hub)).catch_unwind());
    let established = tokio::select! {
        () = hub.stop.cancelled() => return,
        established = tokio::time::timeout_at(place.deadline.into(), establish) => established,
    };
    let established = match established {
        Ok(Ok(Some(established))) => established,
        Ok(Ok(None)) => return,
        Ok(Err(_)) => {
            hub.counters.panics.bump();
            warn!(
                "a library for TLS or WebSocket panicked; the connection is closed and nothing else"
            );
            return;
        }
        Err(_) => {
            hub.counters.handshake_timeouts.bump();
            debug!("the transport was not established in time");
            return;
        }
    };
    let arrival = Arrival {
        reader: established.reader,
        writer: established.writer,
        certificate_name: established.certificate_name,
        place,
        address_place,
    };
    session::serve(arrival, hub).await;
}

fn prepare(stream: &TcpStream, peer: SocketAddr) {
    let keep_alive = TcpKeepalive::new().with_time(PROBE_AFTER);
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keep_alive));
    if let Err(error) = prepared {
        debug!(%peer, %error, "cannot set a socket's options");
    }
}

fn count(hub: &Hub, peer: SocketAddr, refused: Refused) {
    let (counters, limits) = (&hub.counters, &hub.limits);
    let (counter, limit, why) = match refused {
        Refused::Handshakes => (
            &counters.refused_sockets,
            limits.handshakes_max,
            "too many connections have not completed their handshake",
        ),
        Refused::AddressHandshakes => (
            &counters.refused_address_handshakes,
            limits.handshakes_max.div_ceil(2),
            "too many connections of this address have not completed their handshake",
        ),
        Refused::AddressOpen => (
            &counters.refused_address,
            limits.connections_per_address_max,
            "too many connections of this address are open",
        ),
        Refused::Rate => (
            &counters.refused_rate,
            limits.connects_per_second_max as usize,
            "this address connects too often",
        ),
    };
    counter.bump();
    debug!(%peer, limit, why, "a connection is closed");
}

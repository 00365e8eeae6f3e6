//! The listener: accepts connections within bounds and starts a session for each.

use crate::{
    hub::Hub,
    session::{self, Arrival},
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::{Instrument, debug, debug_span, warn};

/// How long to wait after the system refused a connection, usually for want of file descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the broker stops. At most `clients_max + handshakes_max` sockets are open: each has a
/// handshake's place until it has a client's.
pub(crate) async fn run(listener: TcpListener, hub: Arc<Hub>) {
    let handshakes = Arc::new(Semaphore::new(hub.limits.handshakes_max));
    loop {
        let accepted = tokio::select! {
            () = hub.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
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
        let Ok(place) = Arc::clone(&handshakes).try_acquire_owned() else {
            hub.counters.refused_sockets.bump();
            debug!(%peer, limit = hub.limits.handshakes_max, "too many connections have not completed their handshake");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "cannot turn Nagle's algorithm off");
        }
        let (reader, writer) = stream.into_split();
        let arrival = Arrival {
            reader: Box::new(reader),
            writer: Box::new(writer),
            certificate_name: None,
            peer: peer.ip(),
            place,
        };
        let session = session::serve(arrival, Arc::clone(&hub));
        hub.tasks
            .spawn(session.instrument(debug_span!("client", %peer)));
    }
}

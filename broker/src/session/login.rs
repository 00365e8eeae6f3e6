//! Who a client is, as the handshake finds out, and how a refused client waits for its answer.

use super::wire::Wire;
use crate::{
    auth::{Credentials, Gate, Identity, LoginRefused},
    codec::reason,
    hub::Hub,
};
use std::{net::IpAddr, time::Instant};
use tracing::{debug, warn};

/// Bytes that a client may send while it waits for a refusal. More are left to the socket, and its end goes unnoticed
/// until the wait is over.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Failures of one address in a row that an operator hears of, once: more than somebody makes who mistypes.
const FAILURES_TOLD: u32 = 10;

/// A login that is refused.
pub(super) struct Refused {
    pub(super) code: u8,
    /// When the answer is due, counted from the question, so that it does not tell how long the check took.
    pub(super) not_before: Option<Instant>,
}

/// Checks a client's name, password and id within a handshake's time.
pub(super) async fn identify(
    hub: &Hub,
    gate: &Gate,
    credentials: &Credentials<'_>,
    peer: IpAddr,
) -> Result<Identity, Refused> {
    let asked = Instant::now();
    let checked = tokio::select! {
        () = hub.stop.cancelled() => Err(LoginRefused::Busy),
        checked = tokio::time::timeout(hub.limits.handshake_timeout, gate.admit(credentials)) => {
            checked.unwrap_or(Err(LoginRefused::Busy))
        }
    };
    let refused = match checked {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    let counters = &hub.counters;
    let (counter, code, failure) = match refused {
        LoginRefused::Password => (&counters.refused_password, reason::BAD_PASSWORD, true),
        LoginRefused::Certificate => (&counters.refused_certificate, reason::BAD_PASSWORD, true),
        LoginRefused::Anonymous => (&counters.refused_anonymous, reason::NOT_AUTHORIZED, true),
        LoginRefused::ClientId => (
            &counters.refused_client_id,
            reason::CLIENT_ID_INVALID,
            false,
        ),
        LoginRefused::Busy => (
            &counters.refused_unchecked,
            reason::SERVER_UNAVAILABLE,
            false,
        ),
    };
    counter.bump();
    let not_before = failure.then(|| {
        let penalty = hub.failures.note(peer, asked);
        if penalty.count == FAILURES_TOLD {
            warn!(%peer, failures = FAILURES_TOLD, "an address fails to log in again and again; more of it is only counted");
        }
        counters.failures_forgotten.add(u64::from(penalty.forgot));
        asked + penalty.delay
    });
    let user = credentials.user;
    debug!(%peer, ?user, client_id = credentials.client_id, ?refused, "login refused");
    Err(Refused { code, not_before })
}

/// Waits until a refusal is due, the client has gone, or the broker stops.
pub(super) async fn hold_back(wire: &mut Wire, until: Instant, hub: &Hub) {
    let gone = async {
        let mut rest = HELD_BYTES_MAX;
        while rest > 0 {
            wire.input.clear();
            match wire.read().await {
                Ok(count) if count > 0 => rest = rest.saturating_sub(count),
                _ => return,
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = hub.stop.cancelled() => {}
        () = tokio::time::sleep_until(until.into()) => {}
        () = gone => {}
    }
}

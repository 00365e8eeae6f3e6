//! The broker from outside: its protocol in bytes of our own, its rules, its links, and clients nobody here wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod access;
mod aliases;
mod bridge;
mod certificates;
mod common;
mod interop;
mod lifecycle;
mod links;
mod observe;
mod persistence;
mod program;
mod protocol;
mod qos2;
mod queue;
mod resume;
mod retained;
mod routing;
mod rumqttd;
mod sessions;
mod shared;
mod tls;
mod transport;
mod users;
mod websocket;
mod wills;

//! The broker from outside: its protocol in bytes of our own, its rules, its links, and clients nobody here wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod access;
mod common;
mod interop;
mod lifecycle;
mod links;
mod protocol;
mod retained;
mod routing;
mod sessions;
mod shared;

//! What MQTT 5.0 and MQTT 3.1.1 (OASIS Standards) ask of a server, as a table of cases that cite the statements.
//!
//! [`table`] is the language of the cases, [`wire`] writes packets, [`answer`] reads them strictly, [`run`] plays a
//! case; the cases follow the chapters. docs/conformance.md says for every statement which cases show it, or why none
//! does, and [`document`] holds it to that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answer;
mod cases_alias;
mod cases_connect;
mod cases_data;
mod cases_publish;
mod cases_qos;
mod cases_retain;
mod cases_session;
mod cases_shared;
mod cases_subscribe;
mod cases_topics;
mod cases_will;
mod document;
mod run;
mod table;
mod wire;

macro_rules! chapters {
    ($($name:ident: $cases:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            run::play($cases::CASES).await;
        })*

        /// Every case there is.
        pub(crate) fn all() -> impl Iterator<Item = &'static table::Case> {
            [$($cases::CASES,)*].into_iter().flatten()
        }
    };
}

chapters! {
    data: cases_data,
    connect: cases_connect,
    wills: cases_will,
    sessions: cases_session,
    publish: cases_publish,
    aliases: cases_alias,
    retain: cases_retain,
    subscribe: cases_subscribe,
    delivery: cases_qos,
    topics: cases_topics,
    shared: cases_shared,
}

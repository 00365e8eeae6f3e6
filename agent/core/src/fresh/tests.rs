#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lamppost_models::V1;
use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);
const CONFIG: FreshConfig = FreshConfig {
    freeze_after: Duration::from_mins(15),
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn signed(text: &str, nonce: Option<u64>) -> SignedTime {
    SignedTime {
        schema: V1,
        time: at(text),
        nonce: nonce.map(Nonce::from_u64),
        trust: Some(TrustVersion(2)),
    }
}

fn now(wall: &str, steady: Duration) -> Now {
    Now {
        wall: at(wall),
        steady,
    }
}

fn clock() -> FreshClock {
    FreshClock::start(CONFIG, None, Duration::ZERO)
}

#[test]
fn a_node_whose_clock_says_1970_knows_that_it_is_later() {
    let mut clock = clock();
    assert_eq!(
        clock.now(now("1970-01-01T00:00:10Z", MINUTE)),
        at("1970-01-01T00:00:10Z")
    );
    clock.take(&signed("2026-11-25T10:00:00Z", None), &keys(&["a"]), MINUTE);
    assert_eq!(
        clock.now(now("1970-01-01T00:02:00Z", 3 * MINUTE)),
        at("2026-11-25T10:02:00Z")
    );
    // An old one does not take it back, nor does a restart.
    clock.take(
        &signed("2026-01-01T00:00:00Z", None),
        &keys(&["a"]),
        3 * MINUTE,
    );
    let bound = clock.bound(3 * MINUTE).unwrap();
    assert_eq!(bound, (at("2026-11-25T10:02:00Z"), 2 * MINUTE));
    let saved = clock.to_save(3 * MINUTE).unwrap();
    assert_eq!(saved.time, at("2026-11-25T10:02:00Z"));
    let clock = FreshClock::start(CONFIG, Some(saved), Duration::ZERO);
    assert_eq!(
        clock.now(now("1970-01-01T00:00:00Z", MINUTE)),
        at("2026-11-25T10:03:00Z")
    );
}

#[test]
fn a_wall_clock_that_runs_ahead_counts_until_an_answer_shows_it() {
    let mut clock = clock();
    clock.link(true, Duration::ZERO);
    clock.take(
        &signed("2026-11-25T10:00:00Z", None),
        &keys(&["a"]),
        Duration::ZERO,
    );
    assert_eq!(
        clock.now(now("2099-01-01T00:00:00Z", MINUTE)),
        at("2099-01-01T00:00:00Z")
    );
    clock.asked(Nonce::from_u64(7), MINUTE);
    clock
        .answer(
            &signed("2026-11-25T10:01:02Z", Some(7)),
            &keys(&["a"]),
            MINUTE + Duration::from_secs(4),
        )
        .unwrap();
    // The answer was given after the question: a minute later it is at most a minute later than it says.
    assert_eq!(
        clock.now(now("2099-01-01T00:00:00Z", 2 * MINUTE)),
        at("2026-11-25T10:02:02Z")
    );
    assert_eq!(
        clock.now(now("2026-11-25T10:02:00Z", 2 * MINUTE)),
        at("2026-11-25T10:02:00Z")
    );
    assert_eq!(
        clock.now(now("2020-01-01T00:00:00Z", 2 * MINUTE)),
        at("2026-11-25T10:02:00Z")
    );
}

#[test]
fn an_answer_counts_once_and_only_for_the_question_that_waits() {
    let mut clock = clock();
    clock.link(true, Duration::ZERO);
    let answer = |clock: &mut FreshClock, nonce| {
        clock.answer(
            &signed("2026-11-25T10:00:00Z", nonce),
            &keys(&["a"]),
            MINUTE,
        )
    };
    assert_eq!(answer(&mut clock, Some(1)), Err(AnswerError::OtherNonce));
    clock.asked(Nonce::from_u64(1), Duration::ZERO);
    clock.asked(Nonce::from_u64(2), Duration::ZERO);
    assert_eq!(answer(&mut clock, None), Err(AnswerError::NoNonce));
    assert_eq!(answer(&mut clock, Some(1)), Err(AnswerError::OtherNonce));
    assert_eq!(clock.lower(MINUTE), None, "nothing was believed");
    assert_eq!(answer(&mut clock, Some(2)), Ok(()));
    assert_eq!(
        answer(&mut clock, Some(2)),
        Err(AnswerError::OtherNonce),
        "a replay"
    );
}

#[test]
fn whoever_holds_the_answers_back_is_noticed_even_if_the_link_is_cut_now_and_then() {
    let mut clock = clock();
    let none = |clock: &FreshClock, minutes| clock.suspicion(None, minutes * MINUTE);
    assert_eq!(
        none(&clock, 1000),
        None,
        "without a link nothing is held back"
    );
    clock.link(true, 1000 * MINUTE);
    assert_eq!(clock.ask_at(), Some(1000 * MINUTE), "at once");
    clock.asked(Nonce::from_u64(1), 1000 * MINUTE);
    assert_eq!(clock.ask_at(), Some(1001 * MINUTE), "and again");
    assert_eq!(none(&clock, 1014), None);
    clock.link(false, 1014 * MINUTE);
    clock.link(true, 2000 * MINUTE);
    assert_eq!(none(&clock, 2000), None);
    let at_least = 15 * MINUTE;
    assert_eq!(none(&clock, 2001), Some(Suspicion::NoAnswer { at_least }));
    // What comes unasked proves nothing.
    clock.take(
        &signed("2026-11-25T10:00:00Z", None),
        &keys(&["a"]),
        2001 * MINUTE,
    );
    assert_eq!(none(&clock, 2001), Some(Suspicion::NoAnswer { at_least }));
    clock.asked(Nonce::from_u64(2), 2002 * MINUTE);
    clock
        .answer(
            &signed("2026-11-25T10:00:00Z", Some(2)),
            &keys(&["a"]),
            2003 * MINUTE,
        )
        .unwrap();
    assert_eq!(none(&clock, 2003), None);
    assert_eq!(clock.ask_at(), Some(2008 * MINUTE));
    assert_eq!(none(&clock, 2016), None);
    assert!(
        none(&clock, 2017).is_some(),
        "the question was asked in minute 2002"
    );
}

#[test]
fn a_trust_document_that_is_told_of_and_does_not_come_is_noticed() {
    let mut clock = clock();
    clock.link(true, Duration::ZERO);
    clock.take(
        &signed("2026-11-25T10:00:00Z", None),
        &keys(&["a"]),
        Duration::ZERO,
    );
    let told = TrustVersion(2);
    assert_eq!(
        clock.suspicion(Some(TrustVersion(1)), Duration::from_secs(59)),
        None
    );
    assert_eq!(
        clock.suspicion(Some(TrustVersion(1)), MINUTE),
        Some(Suspicion::NoTrust { told })
    );
    assert_eq!(clock.suspicion(Some(told), MINUTE), None);
    assert_eq!(
        clock.suspicion(None, MINUTE),
        None,
        "a node without a root has no documents"
    );
}

#[test]
fn what_a_stolen_key_said_is_forgotten_with_the_key() {
    let mut clock = clock();
    clock.link(true, Duration::ZERO);
    clock.asked(Nonce::from_u64(1), Duration::ZERO);
    clock
        .answer(
            &signed("2099-01-01T00:00:00Z", Some(1)),
            &keys(&["stolen"]),
            Duration::ZERO,
        )
        .unwrap();
    clock.take(
        &signed("2026-11-25T10:00:00Z", None),
        &keys(&["good"]),
        Duration::ZERO,
    );
    let wall = now("2026-11-25T10:00:01Z", Duration::ZERO);
    assert_eq!(clock.now(wall), at("2099-01-01T00:00:00Z"));
    clock.trust_changed(&keys(&["stolen", "good"]));
    assert_eq!(clock.now(wall), at("2099-01-01T00:00:00Z"));
    clock.trust_changed(&keys(&["good"]));
    assert_eq!(clock.now(wall), wall.wall);
    clock.take(
        &signed("2026-11-25T10:05:00Z", None),
        &keys(&["good"]),
        Duration::ZERO,
    );
    assert_eq!(clock.now(wall), at("2026-11-25T10:05:00Z"));
}

#[test]
fn the_bound_is_written_down_at_first_and_then_hourly() {
    let mut clock = clock();
    assert_eq!(clock.to_save(MINUTE), None);
    clock.take(&signed("2026-11-25T10:00:00Z", None), &keys(&["a"]), MINUTE);
    assert!(clock.to_save(MINUTE).is_some());
    clock.saved(MINUTE);
    assert_eq!(clock.to_save(60 * MINUTE), None);
    assert!(clock.to_save(61 * MINUTE).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is signed, replayed and answered, as long as the signer's clock is right: the lower bound is never later than
    /// now, and never goes back.
    #[test]
    fn the_lower_bound_is_one(steps in prop::collection::vec((0..100_u64, 0..4_u8, any::<i64>()), 1..60)) {
        let start = at("2026-11-25T10:00:00Z");
        let mut clock = clock();
        let (mut steady, mut last, mut old) = (Duration::ZERO, None, Vec::new());
        for (seconds, kind, wall) in steps {
            steady += Duration::from_secs(seconds);
            let truth = start.after(steady);
            let time = SignedTime { schema: V1, time: truth, nonce: Some(Nonce::from_u64(seconds)), trust: None };
            match kind {
                0 => clock.asked(Nonce::from_u64(seconds), steady),
                1 => drop(clock.answer(&time, &[], steady)),
                2 => clock.take(&time, &[], steady),
                _ => if let Some(old) = old.first() { clock.take(old, &[], steady) },
            }
            old.push(time);
            let lower = clock.lower(steady);
            prop_assert!(lower.is_none_or(|lower| lower <= truth));
            prop_assert!(lower >= last);
            let shown = clock.now(Now { wall: Timestamp::EPOCH.offset_ms(wall), steady });
            prop_assert!(lower.is_none_or(|lower| lower <= shown));
            last = lower;
        }
    }
}

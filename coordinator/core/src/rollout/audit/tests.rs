use super::*;

fn note(number: u64) -> Note {
    Note {
        by: if number == 0 {
            Actor::coordinator()
        } else {
            "anna@depot".parse().unwrap()
        },
        act: Act::Advance,
        target: (number != 1).then(|| Target {
            group: "all".parse().unwrap(),
            model: "flow".parse().unwrap(),
        }),
        words: format!("wave {number} of 4 begins"),
    }
}

fn log(entries: u64) -> (Vec<Entry>, Head) {
    let mut head = Head::default();
    let mut log = Vec::new();
    for number in 0..entries {
        let at = Timestamp::EPOCH.offset_ms(i64::try_from(number).unwrap() * 1000);
        let entry = head.entry(note(number), at);
        head = Head::after(&entry);
        log.push(entry);
    }
    (log, head)
}

/// The hashes of a first log: they must come out the same for ever, or old logs would read as broken. They were
/// computed by another program, from the description at the head of the module.
#[test]
fn format_1_has_the_same_hashes_for_ever() {
    let (log, head) = log(3);
    let hashes: Vec<String> = log.iter().map(|entry| entry.hash.hex()).collect();
    assert_eq!(hashes[0], GOLDEN[0]);
    assert_eq!(hashes[1], GOLDEN[1]);
    assert_eq!(hashes[2], GOLDEN[2]);
    assert_eq!(verify(&log, head), Ok(3));
    let json = serde_json::to_string(&log[1]).unwrap();
    assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), log[1]);
    let golden = r#"{"v":1,"number":1,"at":"1970-01-01T00:00:01Z","by":"anna@depot","act":"advance","words":"wave 1 of 4 begins""#;
    assert!(json.starts_with(golden), "{json}");
}

const GOLDEN: [&str; 3] = [
    "5f105e753e18cfa66b565e10ecffd900bd7199b094e2dc0376eb9d0fda8deb9a",
    "aea46bbb5d78fd127250628cca513ed8e94830251a8607c90c76c950e1616926",
    "39c56df3425c10aea702e48452eaf5e8c740832839c18dbed636f06cda1fdddb",
];

#[test]
fn the_first_broken_entry_is_named() {
    let (good, head) = log(6);
    let broken = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut log = good.clone();
        change(&mut log);
        verify(&log, head).unwrap_err()
    };
    let content = Broken::Content { number: 3 };
    assert_eq!(broken(&|log| log[3].words.push('!')), content);
    assert_eq!(broken(&|log| log[3].by = Actor::coordinator()), content);
    assert_eq!(broken(&|log| log[3].act = Act::Promote), content);
    assert_eq!(broken(&|log| log[3].target = None), content);
    assert_eq!(broken(&|log| log[3].at = Timestamp::EPOCH), content);
    // Whoever changes an entry and its hash breaks the one after it.
    let rehashed = |log: &mut Vec<Entry>| {
        log[3].words.push('!');
        log[3].hash = log[3].hashed();
    };
    assert_eq!(broken(&rehashed), Broken::Before { number: 4 });
    let gap = Broken::Gap {
        number: 2,
        found: 3,
    };
    let gone = |log: &mut Vec<Entry>| {
        log.remove(2);
    };
    assert_eq!(broken(&gone), gap);
    assert!(matches!(
        broken(&|log| log.swap(1, 2)),
        Broken::Gap { number: 1, .. }
    ));
    let short = Broken::Short { number: 4, next: 6 };
    assert_eq!(broken(&|log| log.truncate(4)), short);
    // The last entry with its hash: only the end that is kept apart tells.
    let last = |log: &mut Vec<Entry>| {
        log[5].words.push('!');
        log[5].hash = log[5].hashed();
    };
    assert_eq!(broken(&last), Broken::Content { number: 5 });
    assert_eq!(verify(&[], Head::default()), Ok(0));
}

#[test]
fn fields_do_not_run_into_each_other() {
    let head = Head::default();
    let mut one = note(0);
    (one.by, one.words) = ("ab".parse().unwrap(), "c".to_owned());
    let mut other = one.clone();
    (other.by, other.words) = ("a".parse().unwrap(), "bc".to_owned());
    let at = Timestamp::EPOCH;
    assert_ne!(head.entry(one, at).hash, head.entry(other, at).hash);
}

#[test]
fn words_and_names_are_bounded() {
    let mut long = note(0);
    long.words = "ß".repeat(WORDS_BYTES_MAX);
    let entry = Head::default().entry(long, Timestamp::EPOCH);
    assert_eq!(entry.words.len(), WORDS_BYTES_MAX);
    for wrong in ["", "two words", "a\nb", &"x".repeat(ACTOR_BYTES_MAX + 1)] {
        assert!(wrong.parse::<Actor>().is_err(), "{wrong:?}");
    }
}

#[test]
fn each_act_is_written_as_it_is_hashed() {
    for act in [
        Act::Release,
        Act::Start,
        Act::Advance,
        Act::Hold,
        Act::Approve,
        Act::Pause,
        Act::Resume,
        Act::AbortKeep,
        Act::AbortRevert,
        Act::Promote,
        Act::Rollback,
        Act::Revoke,
        Act::Push,
        Act::Keys,
    ] {
        let json = serde_json::to_string(&act).unwrap();
        assert_eq!(json, format!("{:?}", act.as_str()));
    }
}

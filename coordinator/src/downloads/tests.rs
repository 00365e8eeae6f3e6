use super::*;

fn at(day: i64, second: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(day * DAY_MS + second * 1000)
}

fn over(backhaul: &str) -> Terms {
    Terms {
        backhaul: Some(backhaul.parse().unwrap()),
        ..Terms::default()
    }
}

#[test]
fn a_backhaul_has_so_many_places_and_a_place_is_free_again_when_its_download_ends() {
    let downloads = Arc::new(Downloads::new(Some(2), at(0, 0), BTreeMap::new()));
    let digest = Digest::of(b"a");
    let admit = |terms: Terms| downloads.admit(digest, 100, terms, at(0, 1));
    let first = admit(over("lte-7")).unwrap();
    let _second = admit(over("lte-7")).unwrap();
    let busy = admit(over("lte-7")).err().unwrap();
    assert!(busy.to_string().contains("backhaul lte-7") && busy.retry_s() == BUSY_RETRY_S);
    let _elsewhere = admit(over("fibre")).unwrap();
    // Whoever is not known shares a place with all others that are not.
    let (_third, _fourth) = (
        admit(Terms::default()).unwrap(),
        admit(Terms::default()).unwrap(),
    );
    assert!(admit(Terms::default()).is_err());
    drop(first);
    let _again = admit(over("lte-7")).unwrap();
    // The policy of a rollout may only be stricter.
    let strict = Terms {
        at_once_max: Some(1),
        ..over("fibre")
    };
    assert!(admit(strict).is_err());
    assert_eq!(
        downloads.refusals(),
        Refusals {
            backhaul: 3,
            spent: 0
        }
    );
}

#[test]
fn without_a_bound_everybody_is_let_in_and_nothing_stays_behind() {
    let downloads = Arc::new(Downloads::new(None, at(0, 0), BTreeMap::new()));
    let passes: Vec<_> = (0..100)
        .map(|_| {
            downloads
                .admit(Digest::of(b"a"), 1, over("x"), at(0, 0))
                .unwrap()
        })
        .collect();
    drop(passes);
    assert!(downloads.counts().active.is_empty());
}

#[test]
fn a_days_bytes_are_not_passed_and_what_was_not_sent_is_given_back() {
    let digest = Digest::of(b"a");
    let earlier = BTreeMap::from([(digest, 50)]);
    let downloads = Arc::new(Downloads::new(None, at(3, 0), earlier));
    let terms = || Terms {
        bytes_per_day: Some(250),
        ..Terms::default()
    };
    let mut first = downloads.admit(digest, 100, terms(), at(3, 0)).unwrap();
    let second = downloads.admit(digest, 100, terms(), at(3, 0)).unwrap();
    let busy = downloads
        .admit(digest, 100, terms(), at(3, 86_390))
        .err()
        .unwrap();
    assert_eq!(
        busy,
        Busy::Spent {
            given: 250,
            wanted: 100,
            bytes_per_day: 250,
            retry_s: 11
        }
    );
    assert_eq!(
        downloads
            .admit(digest, 1, terms(), at(3, 0))
            .err()
            .unwrap()
            .retry_s(),
        SPENT_RETRY_S_MAX
    );
    first.sent(30);
    drop(first);
    assert_eq!(downloads.given_today(digest, at(3, 9)), 180);
    // Another artifact is another matter.
    drop(
        downloads
            .admit(Digest::of(b"b"), 250, terms(), at(3, 9))
            .unwrap(),
    );
    // A download that ends on the next day takes nothing from that day.
    assert_eq!(downloads.given_today(digest, at(4, 0)), 0);
    let _third = downloads.admit(digest, 240, terms(), at(4, 0)).unwrap();
    drop(second);
    assert_eq!(downloads.given_today(digest, at(4, 0)), 240);
    let unsaved = downloads.take_unsaved();
    assert_eq!(unsaved, BTreeMap::from([((Day(3), digest), 30)]));
    downloads.put_back(unsaved);
    assert_eq!(downloads.take_unsaved().len(), 1);
    assert_eq!(downloads.take_unsaved().len(), 0);
}

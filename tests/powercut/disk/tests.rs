//! What survives a cut, call by call.

use std::collections::BTreeSet;
use std::fs;

use super::*;
use lamppost_tests::rng::Rng;

struct Bench {
    disk: Disk,
    next: usize,
}

fn at(path: &str) -> At {
    At {
        dir: None,
        path: format!("/box/{path}"),
    }
}

impl Bench {
    fn new(syncs: Syncs) -> Self {
        let disk = Disk::new(Path::new("/box"), syncs).unwrap();
        Self { disk, next: 0 }
    }

    fn begin(&mut self, call: Call) -> usize {
        let id = self.next;
        self.next += 1;
        self.disk.step(&Event::Begin { id, call }).unwrap();
        id
    }

    fn end(&mut self, id: usize, result: i64) {
        self.disk.step(&Event::End { id, result }).unwrap();
    }

    fn does(&mut self, call: Call, result: i64) {
        let id = self.begin(call);
        self.end(id, result);
    }

    fn creates(&mut self, path: &str, fd: i64) {
        let (create, truncate, append) = (true, false, false);
        let open = Call::Open {
            at: at(path),
            create,
            truncate,
            append,
        };
        self.does(open, fd);
    }

    fn syncs_root(&mut self) {
        let open = Call::Open {
            at: at(""),
            create: false,
            truncate: false,
            append: false,
        };
        self.does(open, 90);
        self.does(
            Call::Sync {
                fd: 90,
                data: false,
            },
            0,
        );
        self.does(Call::Close(90), 0);
    }

    /// Every outcome that many cuts have for a file; `None` where it is gone.
    fn outcomes(&self, names: Names, name: &str) -> BTreeSet<Option<Vec<u8>>> {
        let one = |seed| {
            let dir = tempfile::tempdir().unwrap();
            let mut rng = Rng::new(seed);
            self.disk.cut(names, &mut rng, dir.path()).unwrap();
            fs::read(dir.path().join(name)).ok()
        };
        (0..200).map(one).collect()
    }
}

#[test]
fn bytes_are_safe_once_a_sync_has_returned_that_began_behind_them() {
    let mut bench = Bench::new(Syncs::All);
    bench.creates("a", 3);
    bench.syncs_root();
    bench.does(Call::Write(3, b"one".to_vec()), 3);
    let sync = bench.begin(Call::Sync { fd: 3, data: true });
    bench.does(Call::Write(3, b"two".to_vec()), 3);
    let unsynced = bench.outcomes(Names::Journal, "a");
    assert!(unsynced.contains(&Some(Vec::new())) && unsynced.contains(&Some(b"onetwo".to_vec())));
    assert!(
        unsynced.contains(&Some(b"\0\0\0two".to_vec())),
        "in any order"
    );
    bench.end(sync, 0);
    let synced = bench.outcomes(Names::Journal, "a");
    let wanted = [&b"one"[..], b"one\0\0\0", b"onetwo"].map(|bytes| Some(bytes.to_vec()));
    assert_eq!(synced, BTreeSet::from(wanted));
}

#[test]
fn a_write_may_be_torn_between_sectors_and_not_within() {
    let mut bench = Bench::new(Syncs::All);
    bench.creates("a", 3);
    bench.syncs_root();
    bench.does(Call::WriteAt(3, 500, vec![7; 600]), 600);
    let outcomes = bench.outcomes(Names::Journal, "a");
    assert!(outcomes.len() > 4, "{} outcomes", outcomes.len());
    for bytes in outcomes.iter().flatten() {
        for part in [500..512, 512..1024, 1024..1100] {
            let part = bytes.get(part).unwrap_or_default();
            assert!(part.iter().all(|byte| *byte == 7) || part.iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_sync_that_fails_or_is_switched_off_saves_nothing() {
    for (syncs, result) in [(Syncs::All, -1), (Syncs::NoDataSync, 0)] {
        let mut bench = Bench::new(syncs);
        bench.creates("a", 3);
        bench.syncs_root();
        bench.does(Call::Write(3, b"one".to_vec()), 3);
        bench.does(Call::Sync { fd: 3, data: true }, result);
        let outcomes = bench.outcomes(Names::Apart, "a");
        assert!(outcomes.contains(&Some(Vec::new())), "{syncs:?}");
    }
}

#[test]
fn a_name_is_safe_once_its_directory_is_synced() {
    let mut bench = Bench::new(Syncs::All);
    bench.creates("new", 3);
    bench.does(Call::Write(3, b"one".to_vec()), 3);
    bench.does(Call::Sync { fd: 3, data: false }, 0);
    assert!(bench.outcomes(Names::Apart, "new").contains(&None));
    bench.syncs_root();
    let one = Some(b"one".to_vec());
    assert_eq!(
        bench.outcomes(Names::Apart, "new"),
        BTreeSet::from([one.clone()])
    );

    bench.does(Call::Rename(at("new"), at("old")), 0);
    for names in [Names::Journal, Names::Apart] {
        assert_eq!(
            bench.outcomes(names, "old"),
            BTreeSet::from([None, one.clone()])
        );
    }
    bench.syncs_root();
    assert_eq!(
        bench.outcomes(Names::Apart, "new"),
        BTreeSet::from([None]),
        "a renaming is one step"
    );
}

#[test]
fn names_go_in_order_over_all_directories_only_in_a_journal() {
    let mut bench = Bench::new(Syncs::All);
    bench.does(Call::MakeDir(at("sub")), 0);
    bench.syncs_root();
    bench.creates("sub/first", 3);
    bench.creates("second", 4);
    let second_alone = |names| {
        (0..200).any(|seed| {
            let dir = tempfile::tempdir().unwrap();
            bench
                .disk
                .cut(names, &mut Rng::new(seed), dir.path())
                .unwrap();
            dir.path().join("second").exists() && !dir.path().join("sub/first").exists()
        })
    };
    assert!(!second_alone(Names::Journal));
    assert!(second_alone(Names::Apart));
}

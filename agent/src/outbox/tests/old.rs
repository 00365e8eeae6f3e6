//! An outbox as agents wrote it before there were lanes and numbers: it opens, drains, and is told by number.

use super::numbers::{BOOT, Centre, numbered, put};
use super::*;

/// The value of a batch in its first version.
fn old_batch(records: &[String]) -> Vec<u8> {
    let json = format!("[{}]", records.join(","));
    let mut value = vec![1, 1];
    value.extend_from_slice(&at(0).as_ms().to_le_bytes());
    value.extend_from_slice(&u32::try_from(records.len()).unwrap().to_le_bytes());
    value.extend_from_slice(&u32::try_from(json.len()).unwrap().to_le_bytes());
    value.push(10);
    value.extend_from_slice(b"i94-volume");
    value.extend_from_slice(&zstd::bulk::compress(json.as_bytes(), 3).unwrap());
    value
}

/// Two generations, the first sealed with its first batch acknowledged, the second as a kill left it: records 0 to 400
/// in batches of 50.
fn old_outbox() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let batch = |at: u64| old_batch(&numbered(at * 50..(at + 1) * 50, 10));
    let totals =
        r#"{"v":1,"epoch":"000000000000004d","evicted":7,"expired":0,"lost_batches":0,"gaps":[]}"#;
    let entry = |count: u32, records: u64, done: &str, records_done: u64| {
        format!(
            r#"{{"v":1,"count":{count},"records":{records},"records_done":{records_done},"oldest":"2027-01-15T08:00:00Z","newest":"2027-01-15T08:00:00Z","done":{done}}}"#
        )
    };
    let key = |kind: u8, number: u32| [&[kind], number.to_be_bytes().as_slice()].concat();
    for generation in 1..3_u32 {
        let store = generation::create(&dir.path().join(format!("gen-{generation:08}"))).unwrap();
        let mut writes = vec![Write::put("s", totals)];
        if generation == 2 {
            writes.push(Write::put(key(b'g', 1), entry(4, 200, "[[0,0]]", 50)));
        }
        writes.push(Write::put(key(b'g', generation), entry(0, 0, "[]", 0)));
        for place in 0..4_u32 {
            let at = u64::from((generation - 1) * 4 + place);
            writes.push(Write::put(key(b'b', place), batch(at)));
        }
        store.commit(&writes).unwrap();
        store.close();
    }
    let note = "lamppost-outbox 1 epoch 000000000000004d newest 2\n";
    fs::write(dir.path().join("outbox"), note).unwrap();
    dir
}

#[test]
fn it_opens_and_drains_in_order() {
    let dir = old_outbox();
    let mut outbox = open(dir.path());
    assert_eq!(outbox.epoch(), Epoch::from_u64(0x4d));
    assert_eq!((outbox.report().records, outbox.report().evicted), (350, 7));
    put(&mut outbox, Class::Prediction, 400..450, 10);
    assert_eq!(waiting(&mut outbox), (50..450).collect::<Vec<_>>());
    let mut centre = Centre::default();
    centre.take_all(&mut outbox, Class::Prediction);
    assert_eq!(centre.delivered, (50..450).collect());
    assert_eq!(outbox.report().lost_batches, 0);
}

#[test]
fn what_it_loses_is_told_by_number_once_its_batches_were_read() {
    let dir = old_outbox();
    let mut outbox = open(dir.path());
    // As the age does, which needs to know each batch.
    waiting(&mut outbox);
    outbox.sweep(at(49 * 3_600)).unwrap();
    let mut centre = Centre::default();
    centre.take_all(&mut outbox, Class::Prediction);
    assert_eq!(centre.lost_for(LossReason::Expired), (50..400).collect());
    assert_eq!(BOOT, lamppost_models::BootId::from_u64(0xb007));
}

#[test]
fn it_waits_by_number_as_soon_as_it_was_looked_through() {
    let dir = old_outbox();
    let mut outbox = open(dir.path());
    waiting(&mut outbox);
    let (told, joined) = outbox.waiters().told();
    assert!(!joined);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].boot, told[0].ranges.clone()),
        (BOOT, vec![(50, 399)])
    );
}

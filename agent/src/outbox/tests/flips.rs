//! One flipped byte anywhere: the outbox opens, gives nothing back that was not put in, and tells what it lost, but for
//! the end of the generation that was written to last: the coordinator misses that by number.

use super::*;

/// Flips in each file that is too long to flip all of its bytes.
const FLIPS_A_FILE: usize = 24;

/// Three generations with the records from 0 to 900.
fn small() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..3 {
        append(&mut open(dir.path()), at * 300..(at + 1) * 300, 100);
    }
    dir
}

/// All files below a directory, with their lengths, in order.
fn files(dir: &Path) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            let length = usize::try_from(entry.metadata().unwrap().len()).unwrap();
            found.push((entry.path(), length));
        }
    }
    found.sort();
    found
}

/// Places that are spread over a file, its ends among them.
fn places(length: usize) -> Vec<usize> {
    let step = (length / FLIPS_A_FILE).max(1);
    let mut places: Vec<usize> = (0..length).step_by(step).collect();
    places.extend(length.checked_sub(1));
    places
}

#[test]
fn any_flipped_byte_is_survived_and_its_cost_is_told() {
    let dir = small();
    let newest = generations(dir.path()).pop().unwrap();
    let (mut flips, mut costly) = (0, 0);
    for (file, length) in files(dir.path()) {
        let name = file.strip_prefix(dir.path()).unwrap();
        let newest = file.starts_with(&newest);
        for place in places(length) {
            let image = image(dir.path());
            let mut bytes = fs::read(image.path().join(name)).unwrap();
            bytes[place] ^= 0x41;
            fs::write(image.path().join(name), bytes).unwrap();

            let at = format!("byte {place} of {}", name.display());
            let mut outbox = match Outbox::open(image.path(), config(), Epoch::from_u64(77), at_0())
            {
                Ok(outbox) => outbox,
                Err(error) => panic!("{at}: {error}"),
            };
            let left = waiting(&mut outbox);
            assert!(left.is_sorted_by(|one, next| one < next), "{at}");
            assert!(left.last().is_none_or(|last| *last < 900), "{at}");
            let report = outbox.report();
            let told: u64 = report.gaps.iter().map(|gap| gap.records).sum();
            let lost = 900 - left.len() as u64;
            // Of the generation that was written to last nobody kept a count: its log may end early and look whole.
            let is_told = told == lost || (newest && told < lost);
            assert!(is_told, "{at}: {lost} lost, told {:?}", report.gaps);
            append(&mut outbox, 900..901, 10);
            (flips, costly) = (flips + 1, costly + u64::from(lost > 0));
        }
    }
    assert!(costly > 10, "{costly} of {flips} flips cost anything");
}

fn at_0() -> Timestamp {
    super::at(0)
}

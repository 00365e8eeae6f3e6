//! What outages leave on the disk: the outbox is filled beyond its cap and drained, again and again.

use std::fmt::Write as _;
use std::path::Path;

use lamppost_store::used_bytes;

use crate::queue::{Ours, Queue as _};
use crate::report::{self, Goal, megabytes, number};

const CAP_BYTES: u64 = 64 << 20;
/// Records of one commit.
const COMMIT: u64 = 1_024;
/// Each cycle writes so many times the cap: the oldest is evicted.
const FILL: u64 = 2;

/// Measures the most that lies on the disk at any time.
pub(crate) fn measure(dir: &Path, cycles: u64) -> anyhow::Result<Goal> {
    eprintln!("{cycles} fills and drains");
    let dir = dir.join("cycles");
    let mut queue = Ours::open(&dir, CAP_BYTES)?;
    let (mut most, mut most_drained, mut next) = (0, 0, 0);
    for _ in 0..cycles {
        let mut bytes = 0;
        while bytes < FILL * CAP_BYTES {
            let records: Vec<String> = (next..next + COMMIT).map(padded).collect();
            // Half of hexadecimal is all that a compressor can save.
            bytes += records.iter().map(String::len).sum::<usize>() as u64 / 2;
            queue.append(&records)?;
            next += COMMIT;
            most = used_bytes(&dir).max(most);
        }
        queue.drain()?;
        most = used_bytes(&dir).max(most);
        most_drained = used_bytes(&dir).max(most_drained);
    }
    let row = [CAP_BYTES, most, most_drained].map(|bytes| number(megabytes(bytes)));
    report::table(
        &format!("Disk over {cycles} cycles of filling to {FILL} x the cap and draining"),
        &["cap MB", "most on the disk MB", "most after a drain MB"],
        &[row.to_vec()],
    );
    Ok(Goal {
        what: format!("disk over {cycles} fills and drains, of the cap"),
        measured: most as f64 / CAP_BYTES as f64,
        limit: 1.5,
        at_least: false,
        unit: "x",
    })
}

/// A record whose padding does not compress beyond its hexadecimal form.
fn padded(n: u64) -> String {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut pad = String::with_capacity(24 * 16);
    for _ in 0..24 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // A string takes all.
        write!(pad, "{state:016x}").ok();
    }
    format!(r#"{{"n":{n},"pad":"{pad}"}}"#)
}

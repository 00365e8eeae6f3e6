//! What the kernel says of a process.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Length of a clock tick in `/proc/<pid>/stat`: `USER_HZ` is 100 on every Linux that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// Proportional set size in bytes: shared pages count by the number of their users.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// All of it.
    pub(crate) total: u64,
    /// Heap and stacks: what is left without the pages of program files, which the kernel can drop and read again.
    pub(crate) anonymous: u64,
}

impl Memory {
    /// What a process takes now.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let bytes = |key: &str| -> anyhow::Result<u64> {
            let kib = text.lines().find_map(|line| {
                line.strip_prefix(key)?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse::<u64>()
                    .ok()
            });
            Ok(kib.with_context(|| format!("no {key} in {path}"))? * 1024)
        };
        Ok(Self {
            total: bytes("Pss:")?,
            anonymous: bytes("Pss_Anon:")?,
        })
    }
}

impl std::iter::Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            total: sum.total + part.total,
            anonymous: sum.anonymous + part.anonymous,
        })
    }
}

/// Processor time in user and kernel mode, all threads together.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The second field is the program's name in parentheses and may hold blanks.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
    let (user, system) = ticks(11)
        .zip(ticks(12))
        .with_context(|| format!("unexpected form of {path}"))?;
    Ok(TICK * (user + system))
}

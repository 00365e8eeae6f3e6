//! A thread of its own for candle: room for its recursion, and no other beside it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Candle walks the tape of gradients recursively, some 1 KiB a value: room for a quarter of a million values. Of memory,
/// only what is used is taken.
const STACK_BYTES: usize = 256 * 1024 * 1024;
/// Candle's products share work among the threads of the pool that they are called in. Batches of small models are too
/// small for that, and the coordinator beside it needs the other cores. What this does not spare: before each product
/// candle 0.11 counts cores by reading all of /proc/cpuinfo, unless `RAYON_NUM_THREADS` is set. A process that trains
/// should be started with it at 1: small models then take a third of the time.
const THREADS: usize = 1;

/// Runs `work` on such a thread; what it panics with becomes an error.
pub(crate) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(THREADS)
        .stack_size(STACK_BYTES)
        .thread_name(|_| "forge".to_owned())
        .build()
        .map_err(|error| format!("no thread can be started: {error}"))?;
    catch_unwind(AssertUnwindSafe(|| pool.install(work))).map_err(|panicked| {
        if let Some(text) = panicked.downcast_ref::<&str>() {
            (*text).to_owned()
        } else if let Some(text) = panicked.downcast_ref::<String>() {
            text.clone()
        } else {
            resume_unwind(panicked)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_deep_recursion_has_room() {
        fn depth(left: u64) -> u64 {
            let here = std::hint::black_box([left; 64]);
            if left == 0 { 0 } else { 1 + depth(here[7] - 1) }
        }
        assert_eq!(with_room(|| depth(100_000)), Ok(100_000));
        let number = std::hint::black_box(7);
        assert_eq!(
            with_room(|| assert_eq!(number, 8, "seven")).map_err(|text| text.contains("seven")),
            Err(true)
        );
    }
}

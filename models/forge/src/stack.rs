//! Room for candle's recursion.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

/// Candle walks the tape of gradients recursively, some 1 KiB a value: room for a quarter of a million values. Of memory,
/// only what is used is taken.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// Runs `work` on a thread with a large stack; what it panics with becomes an error.
pub(crate) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    scope(|scope| {
        let thread = Builder::new()
            .name("forge".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| format!("no thread can be started: {error}"))?;
        thread.join().map_err(|panicked| {
            if let Some(text) = panicked.downcast_ref::<&str>() {
                (*text).to_owned()
            } else if let Some(text) = panicked.downcast_ref::<String>() {
                text.clone()
            } else {
                resume_unwind(panicked)
            }
        })
    })
}

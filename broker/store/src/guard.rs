//! A fence around sled: its panics become errors, and dropping it has an end.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long a drop may take: sled writes at most its two open segments, and a slow SD card needs about a second.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// What a call into sled came to, if it did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It returned an error.
    Error(sled::Error),
    /// It panicked; the handle must not be used again.
    Panic(String),
}

/// Runs a call into sled.
pub(crate) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    // The handle is not used after a panic, so that it does not matter what state the panic left it in.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::Error(error)),
        Err(payload) => Err(Failure::Panic(panic_message(payload.as_ref()))),
    }
}

/// Drops a handle of sled. The drop flushes, which may panic, or hang after an earlier panic: hence the thread.
pub(crate) fn drop_db(path: &Path, db: sled::Db) {
    let (done, wait) = mpsc::sync_channel(1);
    let dropper = thread::Builder::new()
        .name("store-drop".to_owned())
        .spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(move || drop(db)));
            // Nobody listens any more when the wait was over.
            done.send(result.map_err(|payload| panic_message(payload.as_ref())))
                .ok();
        });
    let outcome = match dropper {
        Ok(_detached) => wait
            .recv_timeout(DROP_WAIT)
            .unwrap_or_else(|_| Err("it did not end in time".to_owned())),
        // The closure, and the handle with it, was dropped on this thread.
        Err(error) => Err(error.to_string()),
    };
    if let Err(cause) = outcome {
        tracing::warn!(store = %path.display(), cause, "closing the store failed; what was committed is on disk");
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("sled panicked: {}", text.unwrap_or("no message"))
}

/// An error of sled as one of the system, so that no type of sled leaves the crate.
pub(crate) fn io_error(error: sled::Error) -> io::Error {
    error.into()
}

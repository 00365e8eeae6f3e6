//! Keeps panics of the library below from leaving this crate or filling the log.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// Longest message of a panic or an error that is kept: tract prints whole nodes into some.
const MESSAGE_CHARS_MAX: usize = 500;

/// What the panic hook does with a panic on this thread.
enum Mode {
    /// Hands it to the hook that was there before.
    Pass,
    /// Keeps its message.
    Keep(Option<String>),
}

thread_local! {
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Pass) };
}

static HOOK: Once = Once::new();

/// Runs `work`; a panic within comes back as its message and place.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(install);
    let outer = MODE.replace(Mode::Keep(None));
    // What `work` borrows is dropped or rebuilt by every caller when this fails.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    match (result, MODE.replace(outer)) {
        (Ok(value), _) => Ok(value),
        (Err(payload), mode) => {
            // Dropping a payload may itself panic; a message is all that is wanted of it.
            std::mem::forget(payload);
            match mode {
                Mode::Keep(Some(message)) => Err(message),
                Mode::Keep(None) | Mode::Pass => Err("no message".to_owned()),
            }
        }
    }
}

/// Puts our hook in front of the one that is there.
fn install() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let kept = MODE.try_with(|mode| match mode.try_borrow_mut().as_deref_mut() {
            Ok(Mode::Keep(message)) => {
                *message = Some(describe(info));
                true
            }
            Ok(Mode::Pass) | Err(_) => false,
        });
        if kept != Ok(true) {
            before(info);
        }
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = info.location().map_or_else(String::new, |at| {
        let file = at.file().rsplit('/').next().unwrap_or_default();
        format!(" ({file}:{})", at.line())
    });
    cut(text.unwrap_or("no message")) + &place
}

/// The first line of `text`, and not too much of it.
pub(crate) fn cut(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_its_message_and_place() {
        let caught = catch(|| -> u32 { panic!("stride is {}", 0) });
        let message = caught.expect_err("it panicked");
        assert!(message.starts_with("stride is 0 (guard.rs:"), "{message}");
    }

    #[test]
    fn a_panic_within_a_guarded_call_does_not_end_the_guard_around_it() {
        let outer = catch(|| {
            let inner = catch(|| -> u32 { panic!("inner") });
            assert!(inner.is_err());
            catch(|| -> u32 { panic!("second") })
        });
        assert!(
            outer
                .expect("the outer call did not panic")
                .expect_err("the inner did")
                .starts_with("second")
        );
    }

    #[test]
    fn a_long_message_is_cut() {
        let message =
            catch(|| -> u32 { panic!("{}", "x".repeat(10_000)) }).expect_err("it panicked");
        assert!(message.chars().count() < MESSAGE_CHARS_MAX + 40);
    }
}

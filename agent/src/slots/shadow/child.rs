//! The child: it holds the candidate, and whatever happens to it happens to nothing else.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lamppost_engine::{Engine, Limits, Output, RunError, Session, process_time, thread_time};
use lamppost_models::message::{Label, Verdict};
use lamppost_models::{Bundle, Reading};
use rustix::process::{Resource, Rlimit};

use super::super::check::{limit_this_process, read_bounded};
use super::wire::{self, Answer, PREAMBLE};
use crate::tap::micros;

/// How far the child steps back for others: as far as it goes.
const NICENESS: i32 = 19;
/// Longest message of a failure, in characters: what a verdict shows.
const DETAIL_CHARS_MAX: usize = 300;
/// Longest label, in bytes: the manifest's own limit is far below.
const LABEL_BYTES_MAX: usize = 4096;

/// Opens the bundle at `path` within the limits that the parent named in the environment, and answers windows from standard
/// input on standard output until there are no more.
pub fn shadow_bundle_main(path: &Path) -> ExitCode {
    limit_this_process();
    if let Err(error) = rustix::process::nice(NICENESS) {
        eprintln!("the process cannot step back for others: {error}");
    }
    match serve(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(path: &Path) -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    output.write_all(PREAMBLE)?;
    let bytes = read_bounded(path)?;
    shut_off();
    let opened = Bundle::read(&bytes)
        .map_err(|error| crate::error_chain(&error))
        .and_then(|bundle| {
            Engine::open(&bundle, &Limits::default()).map_err(|error| crate::error_chain(&error))
        });
    drop(bytes);
    let mut session = match opened {
        Ok(engine) => engine.session(),
        Err(detail) => {
            let (verdict, detail) = (Verdict::Unusable, cut(&detail));
            return wire::say(&mut output, &Answer::Refused { verdict, detail });
        }
    };
    wire::say(&mut output, &Answer::Opened)?;
    let mut before = process_time();
    while let Some(window) = wire::next_window(&mut input)? {
        let mut answer = score(&mut session, &window);
        let now = process_time();
        let (Answer::Said { busy_us, .. } | Answer::Failed { busy_us, .. }) = &mut answer else {
            continue;
        };
        *busy_us = micros(now.saturating_sub(before));
        before = now;
        wire::say(&mut output, &answer)?;
    }
    Ok(())
}

fn score(session: &mut Session, window: &[Reading]) -> Answer {
    let begun = thread_time();
    let result = session.run(window);
    let took_us = micros(thread_time().saturating_sub(begun));
    match result {
        Ok(output) => Answer::Said {
            horizon_ms: output.horizon.map(millis),
            label: said(output).filter(|label| match label {
                Label::Class(class) => class.len() <= LABEL_BYTES_MAX,
                Label::Value(_) => true,
            }),
            took_us,
            busy_us: 0,
        },
        Err(error @ (RunError::Unfit(_) | RunError::Failed(_))) => Answer::Failed {
            detail: cut(&crate::error_chain(&error)),
            busy_us: 0,
        },
    }
}

/// What a label is compared with: a classification's label, or else the value.
pub(crate) fn said(output: Output) -> Option<Label> {
    match (output.scores, output.label, output.value) {
        (Some(_), Some(label), _) | (_, Some(label), None) => Some(Label::Class(label)),
        (_, _, Some(value)) => Some(Label::Value(value)),
        (_, None, None) => None,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

/// From here on the process can open nothing more: no file, no connection; and write to no file. Its three pipes remain.
fn shut_off() {
    for (resource, limit) in [(Resource::Nofile, 3), (Resource::Fsize, 0)] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            eprintln!("limit {resource:?} cannot be set: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anomaly_is_compared_by_its_label_only_without_a_value() {
        let none = Output::default();
        let class = Output {
            label: Some("jam".to_owned()),
            scores: Some(vec![1.0]),
            ..none.clone()
        };
        assert_eq!(said(class), Some(Label::Class("jam".to_owned())));
        let value = Output {
            value: Some(2.0),
            ..none.clone()
        };
        assert_eq!(said(value), Some(Label::Value(2.0)));
        assert_eq!(said(none), None);
    }
}

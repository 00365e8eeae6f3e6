//! The promises of the demo, and what became of each.

use super::screen::{Screen, Tone};

/// A promise with what was measured of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// What is promised, in a few words.
    pub what: &'static str,
    /// What was measured; one line each.
    pub measured: Vec<String>,
    /// Whether it came true.
    pub kept: bool,
}

/// All promises, in the order in which they are shown.
#[derive(Clone, Debug)]
pub struct Summary {
    promises: Vec<Promise>,
}

impl Summary {
    /// None of them has come true yet.
    pub fn new(promises: &[&'static str]) -> Self {
        let unmeasured = |&what| Promise {
            what,
            measured: vec!["the demo did not get there".to_owned()],
            kept: false,
        };
        Self {
            promises: promises.iter().map(unmeasured).collect(),
        }
    }

    /// Sets down what was measured of a promise.
    pub fn settle(&mut self, what: &'static str, kept: bool, measured: Vec<String>) {
        let settled = Promise {
            what,
            measured,
            kept,
        };
        match self
            .promises
            .iter_mut()
            .find(|promise| promise.what == what)
        {
            Some(promise) => *promise = settled,
            None => self.promises.push(settled),
        }
    }

    /// Whether there is any, and each came true.
    pub fn kept(&self) -> bool {
        !self.promises.is_empty() && self.promises.iter().all(|promise| promise.kept)
    }

    /// The table: promise, result, measurements below each other.
    pub fn lines<W: std::io::Write>(&self, screen: &Screen<W>) -> Vec<String> {
        let width = self
            .promises
            .iter()
            .map(|promise| promise.what.chars().count())
            .max()
            .unwrap_or(0);
        let mut lines = vec![
            format!("{:<width$}  result  measured", "promise"),
            "-".repeat(width + 50),
        ];
        for promise in &self.promises {
            let word = if promise.kept {
                screen.toned(Tone::Good, "ok    ")
            } else {
                screen.toned(Tone::Bad, "FAILED")
            };
            let mut measured = promise.measured.iter();
            let first = measured.next().map_or("", String::as_str);
            lines.push(format!("{:<width$}  {word}  {first}", promise.what));
            lines.extend(measured.map(|more| format!("{:<width$}          {more}", "")));
        }
        let kept = self.promises.iter().filter(|promise| promise.kept).count();
        lines.push(format!(
            "{kept} of {} promises came true",
            self.promises.len()
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_promise_is_broken_until_it_is_measured_and_none_is_no_success() {
        assert!(!Summary::new(&[]).kept());
        let mut summary = Summary::new(&["predictions arrive", "nothing is lost"]);
        summary.settle("predictions arrive", true, vec!["12".to_owned()]);
        assert!(!summary.kept());
        let screen = Screen::new(Vec::new(), false, Instant::now());
        assert_eq!(
            summary.lines(&screen)[3],
            "nothing is lost     FAILED  the demo did not get there"
        );
        summary.settle(
            "nothing is lost",
            false,
            vec!["3 of 4".to_owned(), "id 7 is missing".to_owned()],
        );
        assert!(!summary.kept());
        let lines = summary.lines(&screen);
        assert_eq!(lines[2], "predictions arrive  ok      12");
        assert_eq!(lines[3], "nothing is lost     FAILED  3 of 4");
        assert_eq!(lines[4], "                            id 7 is missing");
        assert_eq!(lines[5], "1 of 2 promises came true");
        summary.settle("nothing is lost", true, Vec::new());
        assert!(summary.kept());
    }
}

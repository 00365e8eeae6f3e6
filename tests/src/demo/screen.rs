//! What the demo shows: a log with a clock and, on a terminal, a block below it that is drawn again and again.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::time::Instant;

/// Most lines of the block: what fits under a few lines of log on a terminal of 24 lines.
const BLOCK_LINES_MAX: usize = 12;

/// Where the demo writes.
pub struct Screen<W> {
    out: W,
    terminal: bool,
    started: Instant,
    block: Vec<String>,
    drawn: usize,
    broken: bool,
}

/// How a word is to be seen, where colours are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// It came true.
    Good,
    /// It did not.
    Bad,
    /// Of less weight.
    Faint,
}

impl Screen<std::io::Stdout> {
    /// The standard output; escape codes only on a terminal that understands them.
    pub fn stdout(started: Instant) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let out = std::io::stdout();
        let terminal = out.is_terminal() && !dumb;
        Self::new(out, terminal, started)
    }
}

impl<W: Write> Screen<W> {
    /// Writes to `out`, with escape codes when it is a terminal.
    pub const fn new(out: W, terminal: bool, started: Instant) -> Self {
        Self {
            out,
            terminal,
            started,
            block: Vec::new(),
            drawn: 0,
            broken: false,
        }
    }

    /// Whether the block is drawn.
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether the reader has gone, as with `| head`.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Adds a line to the log, with the seconds since the start.
    pub fn log(&mut self, line: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.text(&format!("{seconds:6.1} s  {line}\n"));
    }

    /// Adds text as it is to the log; it ends with a line feed.
    pub fn text(&mut self, text: &str) {
        let mut bytes = self.erased();
        bytes.push_str(text);
        self.draw_into(&mut bytes);
        self.write(&bytes);
    }

    /// Replaces the block; what is no terminal shows none.
    pub fn show(&mut self, mut block: Vec<String>) {
        block.truncate(BLOCK_LINES_MAX);
        self.block = block;
        if self.terminal {
            self.text("");
        }
    }

    /// The word in its tone.
    pub fn toned(&self, tone: Tone, word: &str) -> String {
        let code = match tone {
            Tone::Good => "32;1",
            Tone::Bad => "31;1",
            Tone::Faint => "2",
            Tone::Plain => return word.to_owned(),
        };
        let colours =
            self.terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if colours {
            format!("\x1b[{code}m{word}\x1b[0m")
        } else {
            word.to_owned()
        }
    }

    /// What takes the drawn block off the terminal.
    fn erased(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        }
    }

    fn draw_into(&mut self, bytes: &mut String) {
        if !self.terminal || self.block.is_empty() {
            return;
        }
        // Lines that would wrap are cut by the terminal, so that as many lines are erased as were drawn.
        bytes.push_str("\x1b[?7l");
        for line in &self.block {
            // Writing to a string does not fail.
            writeln!(bytes, "{line}").unwrap_or_default();
        }
        bytes.push_str("\x1b[?7h");
        self.drawn = self.block.len();
    }

    fn write(&mut self, bytes: &str) {
        if self.broken || bytes.is_empty() {
            return;
        }
        let written = self
            .out
            .write_all(bytes.as_bytes())
            .and_then(|()| self.out.flush());
        self.broken = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(terminal: bool) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, terminal, Instant::now());
        screen.show(vec!["one".to_owned(), "two".to_owned()]);
        screen.log("something happens");
        screen.show(Vec::new());
        let word = screen.toned(Tone::Good, "ok");
        screen.text(&format!("{word}\n"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_pipe_gets_lines_and_no_escape_codes() {
        assert_eq!(shown(false), "   0.0 s  something happens\nok\n");
    }

    #[test]
    fn a_terminal_gets_the_log_above_a_block_that_is_erased_by_its_height() {
        let text = shown(true);
        let block = "\x1b[?7lone\ntwo\n\x1b[?7h";
        let expected =
            format!("{block}\x1b[2F\x1b[J   0.0 s  something happens\n{block}\x1b[2F\x1b[J");
        assert!(text.starts_with(&expected), "{text:?}");
        assert!(
            text.ends_with("ok\x1b[0m\n") || text.ends_with("\x1b[Jok\n"),
            "{text:?}"
        );
    }

    #[test]
    fn a_reader_that_goes_away_is_noticed_and_harmless() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut screen = Screen::new(Gone, false, Instant::now());
        screen.log("x");
        screen.log("y");
        assert!(screen.is_broken());
    }
}

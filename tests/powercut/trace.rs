//! A writer's system calls, as strace tells them.
//!
//! The trace says of each call when it began and when it returned, in one order over all threads: a write that returned
//! before a sync began is covered by it, and no other.

use std::collections::BTreeMap;
use std::io::BufRead;

use anyhow::{Context as _, bail, ensure};

/// What strace is asked for: all that changes a file, a name or a descriptor. What is not understood is an error, and
/// nothing that is written in another way, such as through mapped memory, is seen: the stores do not do that.
pub(crate) const CALLS: &str = "trace=open,openat,creat,close,dup,dup2,dup3,fcntl,read,lseek,write,writev,pwrite64,\
    pwritev,pwritev2,truncate,ftruncate,fallocate,copy_file_range,sendfile,splice,fsync,fdatasync,sync,syncfs,rename,\
    renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,io_uring_setup";

/// A descriptor, or `None` for the working directory.
pub(crate) type Fd = Option<i32>;

/// A path below a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) dir: Fd,
    pub(crate) path: String,
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open {
        at: At,
        create: bool,
        truncate: bool,
        append: bool,
    },
    Close(i32),
    /// The result is another descriptor for the same.
    Dup(i32),
    Read(i32),
    Seek(i32),
    Write(i32, Vec<u8>),
    WriteAt(i32, u64, Vec<u8>),
    Resize(i32, u64),
    Sync {
        fd: i32,
        /// `fdatasync`.
        data: bool,
    },
    Rename(At, At),
    Remove(At),
    MakeDir(At),
    /// Changes nothing.
    Ask,
    /// One that the model does not know; only harmless when it has nothing to do with the store.
    Other {
        name: String,
        fd: Option<i32>,
    },
}

/// A step of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Begin { id: usize, call: Call },
    End { id: usize, result: i64 },
}

impl Event {
    /// Whether the disk may be another behind it.
    pub(crate) const fn is_change(&self) -> bool {
        match self {
            Self::Begin { call, .. } => !matches!(
                call,
                Call::Read(_) | Call::Seek(_) | Call::Close(_) | Call::Ask
            ),
            Self::End { .. } => true,
        }
    }
}

/// Reads a trace.
pub(crate) fn parse(trace: impl BufRead) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut under_way: BTreeMap<u32, usize> = BTreeMap::new();
    let mut next = 0;
    for line in trace.lines() {
        let line = line?;
        let shown = || line.get(..120).unwrap_or(&line).to_owned();
        let (thread, rest) = line.split_once(' ').with_context(shown)?;
        let thread: u32 = thread.parse().with_context(shown)?;
        let rest = rest.trim_start();
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        if rest.starts_with("<... ") {
            let id = under_way.remove(&thread).with_context(shown)?;
            let result = result(rest).with_context(shown)?;
            events.push(Event::End { id, result });
            continue;
        }
        let id = next;
        next += 1;
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            let call = call(begun).with_context(shown)?;
            events.push(Event::Begin { id, call });
            under_way.insert(thread, id);
        } else {
            let (asked, _) = rest.rsplit_once(" = ").with_context(shown)?;
            let asked = asked.trim_end().strip_suffix(')').with_context(shown)?;
            let call = call(asked).with_context(shown)?;
            events.push(Event::Begin { id, call });
            let result = result(rest).with_context(shown)?;
            events.push(Event::End { id, result });
        }
    }
    Ok(events)
}

/// What a call returned; a call that ended with its process returned nothing.
fn result(rest: &str) -> anyhow::Result<i64> {
    let (_, result) = rest.rsplit_once(" = ").context("no result")?;
    let word = result.split_whitespace().next().context("no result")?;
    Ok(match word.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16)?,
        None if word == "?" => -1,
        None => word.parse()?,
    })
}

/// Reads `name(argument, argument`. Strings are in hexadecimal, so that no comma and no bracket is in them.
fn call(text: &str) -> anyhow::Result<Call> {
    let (name, arguments) = text.split_once('(').context("no bracket")?;
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
    let argument = |at: usize| arguments.get(at).copied().context("too few arguments");
    let fd = |at: usize| -> anyhow::Result<i32> { Ok(argument(at)?.parse()?) };
    let number = |at: usize| -> anyhow::Result<u64> { Ok(argument(at)?.parse()?) };
    let path = |dir: Fd, at: usize| -> anyhow::Result<At> {
        let path = String::from_utf8(string(argument(at)?)?)?;
        Ok(At { dir, path })
    };
    let dir = |at: usize| -> anyhow::Result<Fd> {
        match argument(at)? {
            "AT_FDCWD" => Ok(None),
            fd => Ok(Some(fd.parse()?)),
        }
    };
    let open = |at: At, flags: &str| {
        let has = |flag: &str| flags.split('|').any(|one| one == flag);
        let (create, truncate, append) = (has("O_CREAT"), has("O_TRUNC"), has("O_APPEND"));
        ensure!(!has("O_TMPFILE"), "O_TMPFILE");
        Ok(Call::Open {
            at,
            create,
            truncate,
            append,
        })
    };
    Ok(match name {
        "open" => open(path(None, 0)?, argument(1)?)?,
        "openat" => open(path(dir(0)?, 1)?, argument(2)?)?,
        "close" => Call::Close(fd(0)?),
        "dup" | "dup2" | "dup3" => Call::Dup(fd(0)?),
        "fcntl" if argument(1)?.starts_with("F_DUPFD") => Call::Dup(fd(0)?),
        "fcntl" => Call::Ask,
        "read" => Call::Read(fd(0)?),
        "lseek" => Call::Seek(fd(0)?),
        "write" => Call::Write(fd(0)?, string(argument(1)?)?),
        "pwrite64" => Call::WriteAt(fd(0)?, number(3)?, string(argument(1)?)?),
        "ftruncate" => Call::Resize(fd(0)?, number(1)?),
        "fsync" | "fdatasync" => Call::Sync {
            fd: fd(0)?,
            data: name == "fdatasync",
        },
        "rename" => Call::Rename(path(None, 0)?, path(None, 1)?),
        "renameat" | "renameat2" => Call::Rename(path(dir(0)?, 1)?, path(dir(2)?, 3)?),
        "unlink" | "rmdir" => Call::Remove(path(None, 0)?),
        "unlinkat" => Call::Remove(path(dir(0)?, 1)?),
        "mkdir" => Call::MakeDir(path(None, 0)?),
        "mkdirat" => Call::MakeDir(path(dir(0)?, 1)?),
        other => Call::Other {
            name: other.to_owned(),
            fd: fd(0).ok(),
        },
    })
}

/// A string of strace's, all of it in hexadecimal.
fn string(quoted: &str) -> anyhow::Result<Vec<u8>> {
    let inside = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let inside = inside.context("not a whole string: strace cut it short")?;
    let digit = |byte: u8| -> anyhow::Result<u8> {
        match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => bail!("a string that is not in hexadecimal"),
        }
    };
    let byte = |escape: &[u8]| match escape {
        [b'\\', b'x', high, low] => Ok(digit(*high)? << 4 | digit(*low)?),
        _ => bail!("a string that is not in hexadecimal"),
    };
    inside.as_bytes().chunks(4).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_begin_and_end_in_the_order_of_the_trace() {
        let trace = r#"7  openat(AT_FDCWD, "\x2f\x61", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 3
8  fdatasync(3 <unfinished ...>
7  pwrite64(3, "\x2c\x29", 2, 40)          = 2
--- not a line
"#;
        assert!(parse(trace.as_bytes()).is_err());
        let trace = trace.replace("--- not a line", "8  <... fdatasync resumed>)          = 0");
        let events = parse(trace.as_bytes()).unwrap();
        let (dir, path) = (None, "/a".to_owned());
        let open = Call::Open {
            at: At { dir, path },
            create: true,
            truncate: false,
            append: false,
        };
        let sync = Call::Sync { fd: 3, data: true };
        let write = Call::WriteAt(3, 40, b",)".to_vec());
        assert_eq!(
            events,
            [
                Event::Begin { id: 0, call: open },
                Event::End { id: 0, result: 3 },
                Event::Begin { id: 1, call: sync },
                Event::Begin { id: 2, call: write },
                Event::End { id: 2, result: 2 },
                Event::End { id: 1, result: 0 },
            ]
        );
    }

    #[test]
    fn what_is_cut_short_or_failed_is_seen() {
        assert!(call(r#"write(1, "\x61"..., 2"#).is_err());
        assert_eq!(
            result("unlink(..) = -1 ENOENT (No such file or directory)").unwrap(),
            -1
        );
    }
}

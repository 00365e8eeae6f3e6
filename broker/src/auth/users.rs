//! The file of users: a name and a password's hash on each line.

use super::password::{HashProblem, PasswordHash};
use crate::config::{is_user_name, nests};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Users of a file. Each takes about 500 bytes of memory: 5 MB.
const USERS_MAX: usize = 10_000;

/// Bytes of a file: as many users, with 200 bytes for a name and a comment of its own besides the 100 of a hash.
const FILE_BYTES_MAX: u64 = 300 * USERS_MAX as u64;

/// Permissions of a new file, and those that an old one may keep.
const NEW_MODE: u32 = 0o600;
const KEPT_MODE: u32 = 0o660;
const OTHERS: u32 = 0o007;

/// Why a file of users cannot be used or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UsersFileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It cannot be written; the old one is as it was.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another program changes a file in the same folder.
    #[error("another program changes a file of users in {}; try again", .0.display())]
    Locked(PathBuf),
    /// It is too long.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
    /// A line is wrong.
    #[error("{}, line {line}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        #[source]
        problem: LineProblem,
    },
    /// A user cannot be added.
    #[error("the user cannot be added")]
    Add(#[source] LineProblem),
}

/// What is wrong with a user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// The line has another form.
    #[error("expected NAME:HASH, a comment that begins with #, or nothing")]
    Form,
    /// The name cannot stand in a topic.
    #[error(
        "user name {0:?} has an empty level, a control character, + or #, or is longer than 1,024 bytes"
    )]
    Name(String),
    /// The name was there before.
    #[error("user {name:?} is on line {before} already")]
    Twice {
        /// The name.
        name: String,
        /// Where it is.
        before: usize,
    },
    /// In a rule with `%u` one user would reach what is another's.
    #[error("user name {0:?} begins with another user's name and '/'")]
    Nested(String),
    /// There are too many users.
    #[error("a file has at most {0} users")]
    TooMany(usize),
    /// The hash is not accepted.
    #[error("the hash of {name:?} is not accepted")]
    Hash {
        /// The user.
        name: String,
        /// What is wrong with it.
        #[source]
        problem: HashProblem,
    },
}

/// The users of a file, in its order, with its comments.
#[derive(Debug, Clone, Default)]
pub struct UsersFile {
    lines: Vec<Line>,
    mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    /// A comment or nothing.
    Note(String),
    User(String, PasswordHash),
}

impl UsersFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it cannot be read, or the first line that is wrong.
    pub fn read(path: &Path) -> Result<Self, UsersFileError> {
        let failed = |source| UsersFileError::Read {
            path: path.to_owned(),
            source,
        };
        // Opening a pipe would wait for whoever writes into it.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            let kind = io::ErrorKind::InvalidInput;
            return Err(failed(io::Error::new(kind, "it is not a file")));
        }
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode();
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        if read.map_err(failed)? as u64 > FILE_BYTES_MAX {
            return Err(UsersFileError::TooLong {
                path: path.to_owned(),
                limit: FILE_BYTES_MAX,
            });
        }
        let lines = parse(&text).map_err(|(line, problem)| UsersFileError::Line {
            path: path.to_owned(),
            line,
            problem,
        })?;
        Ok(Self { lines, mode })
    }

    /// Reads a file, if there is one, changes it, and writes it: whole or not at all, readable by its owner, and by its
    /// group if it was so before.
    ///
    /// # Errors
    /// If it cannot be read, changed or written, or somebody else changes it at the same time.
    pub fn edit<T>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, UsersFileError>,
    ) -> Result<T, UsersFileError> {
        let failed = |source| UsersFileError::Write {
            path: path.to_owned(),
            source,
        };
        let exists = path.try_exists().map_err(failed)?;
        // A link stays one: it is the file it names that is replaced.
        let path = if exists {
            fs::canonicalize(path).map_err(failed)?
        } else {
            std::path::absolute(path).map_err(failed)?
        };
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let locked = File::open(&folder).map_err(failed)?;
        match locked.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(UsersFileError::Locked(folder)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut file = if exists {
            Self::read(&path)?
        } else {
            Self::default()
        };
        let outcome = change(&mut file)?;
        replace(&path, file.to_text().as_bytes(), exists)
            .and_then(|()| locked.sync_all())
            .map_err(failed)?;
        Ok(outcome)
    }

    /// Adds a user or gives it another hash; true if it was there before.
    ///
    /// # Errors
    /// If the name cannot be a user's.
    pub fn set(&mut self, name: &str, hash: PasswordHash) -> Result<bool, UsersFileError> {
        let wrong = |problem| Err(UsersFileError::Add(problem));
        for line in &mut self.lines {
            if let Line::User(known, old) = line
                && known == name
            {
                *old = hash;
                return Ok(true);
            }
        }
        if !is_user_name(name) {
            return wrong(LineProblem::Name(name.to_owned()));
        }
        if self.names().count() >= USERS_MAX {
            return wrong(LineProblem::TooMany(USERS_MAX));
        }
        let outer = |known: &str| nests(known, |outer| outer == name);
        let has = |wanted: &str| self.names().any(|known| known == wanted);
        if nests(name, has) || self.names().any(outer) {
            return wrong(LineProblem::Nested(name.to_owned()));
        }
        self.lines.push(Line::User(name.to_owned(), hash));
        Ok(false)
    }

    /// Takes a user out; false if there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.lines.len();
        self.lines
            .retain(|line| !matches!(line, Line::User(known, _) if known == name));
        self.lines.len() < before
    }

    /// The users' names in the file's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match line {
            Line::User(name, _) => Some(name.as_str()),
            Line::Note(_) => None,
        })
    }

    /// Whether users of this machine who are neither the owner nor of the group can read or change the file.
    pub fn is_readable_by_others(&self) -> bool {
        self.mode & OTHERS != 0
    }

    /// The users' names and hashes.
    pub(super) fn into_users(self) -> impl Iterator<Item = (String, PasswordHash)> {
        self.lines.into_iter().filter_map(|line| match line {
            Line::User(name, hash) => Some((name, hash)),
            Line::Note(_) => None,
        })
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Note(note) => text.push_str(note),
                Line::User(name, hash) => {
                    text.push_str(name);
                    text.push(':');
                    text.push_str(hash.as_str());
                }
            }
            text.push('\n');
        }
        text
    }
}

fn parse(text: &str) -> Result<Vec<Line>, (usize, LineProblem)> {
    let mut lines = Vec::new();
    let mut users = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let parsed = parse_line(line).map_err(|problem| (number, problem))?;
        if let Line::User(name, _) = &parsed {
            if users.len() >= USERS_MAX {
                return Err((number, LineProblem::TooMany(USERS_MAX)));
            }
            if let Some(before) = users.insert(name.clone(), number) {
                let name = name.clone();
                return Err((number, LineProblem::Twice { name, before }));
            }
        }
        lines.push(parsed);
    }
    let nested = users
        .iter()
        .filter(|(name, _)| nests(name, |outer| users.contains_key(outer)))
        .min_by_key(|(_, number)| **number);
    match nested {
        Some((name, &number)) => Err((number, LineProblem::Nested(name.clone()))),
        None => Ok(lines),
    }
}

fn parse_line(line: &str) -> Result<Line, LineProblem> {
    // What an editor of another system leaves behind.
    let line = line.trim_end_matches('\r');
    if line.is_empty() || line.starts_with('#') {
        return Ok(Line::Note(line.to_owned()));
    }
    // A name may contain a colon, a hash does not.
    let (name, hash) = line.rsplit_once(':').ok_or(LineProblem::Form)?;
    if !is_user_name(name) {
        return Err(LineProblem::Name(name.to_owned()));
    }
    match PasswordHash::parse(hash) {
        Ok(hash) => Ok(Line::User(name.to_owned(), hash)),
        Err(problem) => Err(LineProblem::Hash {
            name: name.to_owned(),
            problem,
        }),
    }
}

/// Puts a new file in the place of `path`, whose owner it takes over. The caller syncs the folder.
fn replace(path: &Path, content: &[u8], exists: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // One that a crash left behind.
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(NEW_MODE)
        .open(&beside)?;
    let written = (|| {
        if exists {
            let (old, new) = (fs::metadata(path)?, file.metadata()?);
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            let mode = NEW_MODE | (old.mode() & KEPT_MODE);
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // The failure that is told is the first one.
        drop(fs::remove_file(&beside));
    }
    written
}

#[cfg(test)]
mod tests;

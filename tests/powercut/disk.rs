//! A file system that forgets: what a power cut may leave of a writer's files.
//!
//! The model follows what POSIX promises and no more. The bytes of a file are safe when a sync of that file has returned
//! that began after the write had returned. Of every later write each sector of 512 bytes may be there or not, and so
//! may the file's new length. A name is safe when a sync of its directory has returned. Later changes of names are there
//! up to some moment: one for all of the file system, as a journal keeps them ([`Names::Journal`]), or one for each
//! directory ([`Names::Apart`]).

mod cut;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::trace::{At, Call, Event};

const STDOUT: i32 = 1;

/// How the changes of names that were not synced survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// All up to one moment, as in a journal.
    Journal,
    /// Those of each directory up to a moment of its own.
    Apart,
}

/// Which syncs work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syncs {
    All,
    /// `fdatasync` does nothing: what sled does by itself is left.
    NoDataSync,
}

type Node = usize;

/// A change of a file's bytes.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

#[derive(Debug)]
struct Pending {
    id: usize,
    returned: bool,
    change: Change,
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    pending: Vec<Pending>,
}

/// A name that now leads elsewhere, or nowhere.
#[derive(Debug)]
struct NameChange {
    dir: Node,
    name: String,
    to: Option<Node>,
    synced: bool,
}

/// What a descriptor leads to.
#[derive(Debug)]
struct Opened {
    node: Node,
    position: usize,
    append: bool,
}

/// What a call covers that is under way.
#[derive(Debug)]
enum UnderWay {
    Plain(Call),
    Write {
        node: Node,
        descriptor: Option<usize>,
    },
    /// The writes, or for a directory the changes of names, that had returned when the sync began.
    SyncFile {
        node: Node,
        covered: Vec<usize>,
    },
    SyncDir {
        node: Node,
        covered: usize,
    },
}

/// The files below one directory.
#[derive(Debug)]
pub(crate) struct Disk {
    root: String,
    syncs: Syncs,
    /// `None` is a directory; the first is the root.
    files: Vec<Option<File>>,
    /// What each directory holds for the running system.
    current: BTreeMap<Node, BTreeMap<String, Node>>,
    /// Each step changes one name, or two for a renaming.
    names: Vec<Vec<NameChange>>,
    opened: Vec<Opened>,
    descriptors: BTreeMap<i32, usize>,
    under_way: BTreeMap<usize, UnderWay>,
}

impl Disk {
    /// An empty directory at the absolute path `root`, which is there for sure.
    pub(crate) fn new(root: &Path, syncs: Syncs) -> anyhow::Result<Self> {
        Ok(Self {
            root: root.to_str().context("a path in UTF-8")?.to_owned(),
            syncs,
            files: vec![None],
            current: BTreeMap::from([(0, BTreeMap::new())]),
            names: Vec::new(),
            opened: Vec::new(),
            descriptors: BTreeMap::new(),
            under_way: BTreeMap::new(),
        })
    }

    /// Takes the next step of the writer; gives what it wrote to standard output.
    pub(crate) fn step(&mut self, event: &Event) -> anyhow::Result<Option<String>> {
        match event {
            Event::Begin { call, .. } if matches!(call, Call::Write(STDOUT, _)) => {
                let Call::Write(_, bytes) = call else {
                    return Ok(None);
                };
                Ok(Some(String::from_utf8(bytes.clone())?))
            }
            Event::Begin { id, call } => {
                if let Some(begun) = self.begin(*id, call)? {
                    self.under_way.insert(*id, begun);
                }
                Ok(None)
            }
            Event::End { id, result } => {
                if let Some(begun) = self.under_way.remove(id) {
                    self.end(*id, begun, *result)?;
                }
                Ok(None)
            }
        }
    }

    /// Notes a call that has to do with the files; `None` for others.
    fn begin(&mut self, id: usize, call: &Call) -> anyhow::Result<Option<UnderWay>> {
        let begun = match call {
            Call::Write(..) | Call::WriteAt(..) | Call::Resize(..) => {
                return self.begin_write(id, call);
            }
            Call::Sync { fd, data } => {
                let works = !(*data && self.syncs == Syncs::NoDataSync);
                match self.node(*fd).filter(|_| works) {
                    None => return Ok(None),
                    Some(node) => self.begin_sync(node),
                }
            }
            Call::Other { name, fd } => {
                if fd.is_some_and(|fd| self.descriptors.contains_key(&fd))
                    || name == "io_uring_setup"
                {
                    bail!("the model does not know {name}");
                }
                return Ok(None);
            }
            Call::Ask => return Ok(None),
            Call::Close(fd) => {
                // A number is free for others from here on.
                self.descriptors.remove(fd);
                return Ok(None);
            }
            Call::Open { .. }
            | Call::Dup(_)
            | Call::Read(_)
            | Call::Seek(_)
            | Call::Rename(..)
            | Call::Remove(_)
            | Call::MakeDir(_) => UnderWay::Plain(call.clone()),
        };
        Ok(Some(begun))
    }

    /// Notes a change of a file's bytes.
    fn begin_write(&mut self, id: usize, call: &Call) -> anyhow::Result<Option<UnderWay>> {
        let (fd, change) = match call {
            Call::Write(fd, bytes) => {
                let at = self.descriptors.get(fd).map(|at| &self.opened[*at]);
                ensure!(
                    at.is_none_or(|at| !at.append),
                    "the model knows no O_APPEND"
                );
                let (offset, bytes) = (at.map_or(0, |at| at.position), bytes.clone());
                (fd, Change::Write { offset, bytes })
            }
            Call::WriteAt(fd, offset, bytes) => {
                let (offset, bytes) = (usize::try_from(*offset)?, bytes.clone());
                (fd, Change::Write { offset, bytes })
            }
            Call::Resize(fd, length) => (fd, Change::Resize(usize::try_from(*length)?)),
            Call::Open { .. }
            | Call::Close(_)
            | Call::Dup(_)
            | Call::Read(_)
            | Call::Seek(_)
            | Call::Sync { .. }
            | Call::Rename(..)
            | Call::Remove(_)
            | Call::MakeDir(_)
            | Call::Ask
            | Call::Other { .. } => bail!("{call:?} changes no bytes"),
        };
        let Some(node) = self.node(*fd) else {
            return Ok(None);
        };
        self.change(id, node, change)?;
        let moves = matches!(call, Call::Write(..));
        let descriptor = self.descriptors.get(fd).copied().filter(|_| moves);
        Ok(Some(UnderWay::Write { node, descriptor }))
    }

    fn begin_sync(&self, node: Node) -> UnderWay {
        match &self.files[node] {
            Some(file) => {
                let returned = file.pending.iter().filter(|pending| pending.returned);
                let covered = returned.map(|pending| pending.id).collect();
                UnderWay::SyncFile { node, covered }
            }
            None => UnderWay::SyncDir {
                node,
                covered: self.names.len(),
            },
        }
    }

    fn end(&mut self, id: usize, begun: UnderWay, result: i64) -> anyhow::Result<()> {
        match begun {
            UnderWay::Write { node, descriptor } => self.end_write(id, node, descriptor, result),
            UnderWay::SyncFile { node, covered } if result == 0 => {
                let Some(file) = &mut self.files[node] else {
                    bail!("a directory with bytes")
                };
                let (safe, pending) = std::mem::take(&mut file.pending)
                    .into_iter()
                    .partition(|pending: &Pending| covered.binary_search(&pending.id).is_ok());
                file.pending = pending;
                let safe: Vec<Pending> = safe;
                for pending in safe {
                    pending.change.apply(&mut file.synced);
                }
                Ok(())
            }
            UnderWay::SyncDir { node, covered } if result == 0 => {
                let changes = self.names[..covered].iter_mut().flatten();
                for change in changes.filter(|change| change.dir == node) {
                    change.synced = true;
                }
                Ok(())
            }
            UnderWay::SyncFile { .. } | UnderWay::SyncDir { .. } => Ok(()),
            UnderWay::Plain(_) if result < 0 => Ok(()),
            UnderWay::Plain(call) => self.end_plain(id, &call, result),
        }
    }

    fn end_write(
        &mut self,
        id: usize,
        node: Node,
        descriptor: Option<usize>,
        result: i64,
    ) -> anyhow::Result<()> {
        let Some(file) = &mut self.files[node] else {
            bail!("a directory with bytes")
        };
        let Ok(count) = usize::try_from(result) else {
            file.pending.retain(|pending| pending.id != id);
            return Ok(());
        };
        if let Some(pending) = file.pending.iter_mut().find(|pending| pending.id == id) {
            pending.returned = true;
            if let Change::Write { bytes, .. } = &mut pending.change {
                bytes.truncate(count);
            }
        }
        if let Some(descriptor) = descriptor {
            self.opened[descriptor].position += count;
        }
        Ok(())
    }

    /// Names change when the call has returned: a cut right behind it is the one in which they did not.
    fn end_plain(&mut self, id: usize, call: &Call, result: i64) -> anyhow::Result<()> {
        match call {
            Call::Open {
                at,
                create,
                truncate,
                append,
            } => self.open(id, at, (*create, *truncate, *append), result)?,
            Call::Dup(fd) => {
                if let Some(&descriptor) = self.descriptors.get(fd) {
                    self.descriptors.insert(i32::try_from(result)?, descriptor);
                }
            }
            // Only what is read or written in order moves; the stores read and write at offsets otherwise.
            Call::Read(fd) => {
                if let Some(&descriptor) = self.descriptors.get(fd) {
                    self.opened[descriptor].position += usize::try_from(result)?;
                }
            }
            Call::Seek(fd) => {
                if let Some(&descriptor) = self.descriptors.get(fd) {
                    self.opened[descriptor].position = usize::try_from(result)?;
                }
            }
            Call::Rename(from, to) => {
                let (from, to) = (self.place(from), self.place(to));
                if let (Some((from, old)), Some((to, new))) = (from, to) {
                    let node = self.lookup(from, &old).context("renames what is there")?;
                    self.rename(vec![(from, old, None), (to, new, Some(node))]);
                }
            }
            Call::Remove(at) => {
                if let Some((dir, name)) = self.place(at) {
                    self.rename(vec![(dir, name, None)]);
                }
            }
            Call::MakeDir(at) => {
                if let Some((dir, name)) = self.place(at) {
                    let node = self.add(None);
                    self.current.insert(node, BTreeMap::new());
                    self.rename(vec![(dir, name, Some(node))]);
                }
            }
            Call::Close(_)
            | Call::Write(..)
            | Call::WriteAt(..)
            | Call::Resize(..)
            | Call::Sync { .. }
            | Call::Ask
            | Call::Other { .. } => {}
        }
        Ok(())
    }

    fn open(
        &mut self,
        id: usize,
        at: &At,
        (create, truncate, append): (bool, bool, bool),
        result: i64,
    ) -> anyhow::Result<()> {
        let found = self.resolve(at);
        let node = match found {
            Some(node) => node,
            None if create => {
                let Some((dir, name)) = self.place(at) else {
                    return Ok(());
                };
                let node = self.add(Some(File::default()));
                self.rename(vec![(dir, name, Some(node))]);
                node
            }
            None => return Ok(()),
        };
        if truncate && let Some(file) = &mut self.files[node] {
            file.pending.push(Pending {
                id,
                returned: true,
                change: Change::Resize(0),
            });
        }
        let (fd, position) = (i32::try_from(result)?, 0);
        self.opened.push(Opened {
            node,
            position,
            append,
        });
        self.descriptors.insert(fd, self.opened.len() - 1);
        Ok(())
    }

    fn add(&mut self, file: Option<File>) -> Node {
        self.files.push(file);
        self.files.len() - 1
    }

    fn node(&self, fd: i32) -> Option<Node> {
        let descriptor = self.descriptors.get(&fd)?;
        Some(self.opened[*descriptor].node)
    }

    fn change(&mut self, id: usize, node: Node, change: Change) -> anyhow::Result<()> {
        let Some(file) = &mut self.files[node] else {
            bail!("a directory with bytes")
        };
        file.pending.push(Pending {
            id,
            returned: false,
            change,
        });
        Ok(())
    }

    /// The names on the way to a path below the root, and where to start; `None` for what is elsewhere.
    fn way<'a>(&self, at: &'a At) -> Option<(Node, Vec<&'a str>)> {
        let (start, rest) = match (at.path.strip_prefix(&self.root), at.dir) {
            (Some(rest), _) if rest.is_empty() || rest.starts_with('/') => (0, rest),
            (_, Some(fd)) if !at.path.starts_with('/') => (self.node(fd)?, at.path.as_str()),
            _ => return None,
        };
        let names = rest
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".");
        Some((start, names.collect()))
    }

    fn lookup(&self, dir: Node, name: &str) -> Option<Node> {
        self.current.get(&dir)?.get(name).copied()
    }

    fn resolve(&self, at: &At) -> Option<Node> {
        let (start, names) = self.way(at)?;
        names
            .iter()
            .try_fold(start, |dir, name| self.lookup(dir, name))
    }

    /// The directory of a path, and the name in it.
    fn place(&self, at: &At) -> Option<(Node, String)> {
        let (start, mut names) = self.way(at)?;
        let name = names.pop()?;
        let dir = names
            .iter()
            .try_fold(start, |dir, name| self.lookup(dir, name))?;
        Some((dir, name.to_owned()))
    }

    fn rename(&mut self, changes: Vec<(Node, String, Option<Node>)>) {
        for (dir, name, to) in &changes {
            let entries = self.current.entry(*dir).or_default();
            match to {
                Some(node) => entries.insert(name.clone(), *node),
                None => entries.remove(name),
            };
        }
        let change = |(dir, name, to)| NameChange {
            dir,
            name,
            to,
            synced: false,
        };
        self.names.push(changes.into_iter().map(change).collect());
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write {
                offset,
                bytes: written,
            } => put(bytes, *offset, written),
            Self::Resize(length) => bytes.resize(*length, 0),
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[offset..end].copy_from_slice(written);
}

#[cfg(test)]
mod tests;

//! sled made safe: open, sync, checksum, quarantine.
//!
//! sled 0.34 is quick and small, and trusts its disk: its `flush` does not survive a power cut, a damaged file makes it
//! panic or forget in silence, and one full disk leaves a handle that fails for ever. This crate is the only place
//! that knows sled. What it adds, and where:
//!
//! - [`Options`]: two presets, for key-value state and for the generations of a queue, and every limit;
//! - [`Store::open`]: cleans up, opens behind a panic guard, drops damaged snapshots, and else moves the damaged store
//!   into a bounded `quarantine/` and starts a fresh one. [`Recovery`] says which of these happened;
//! - [`Store::commit`]: a batch that is applied as a whole and has reached the disk when the call returns. A commit that
//!   failed stops the store, since nobody knows what of it will be there after a power cut: open it again;
//! - [`Store::get`], [`Store::range`], [`Store::scan_prefix`]: every value carries a CRC32 over key and value. Readers
//!   see only what a finished commit wrote.
//!
//! # On disk
//!
//! A store is one directory: sled's own files, and `lamppost`, which names the format and the segment size. The keys in
//! sled start with one byte for what they are: 0 a key of the caller, 1 a piece of a value that is too large for one
//! entry, 2 the store's own records. The value of each starts with its form and ends with a CRC32.
//!
//! # What it cannot know
//!
//! A log whose end was damaged on the disk may open as an older state of itself. Who must notice that keeps a count of
//! its own elsewhere.

mod disk;
mod entry;
mod error;
mod guard;
mod open;
mod options;
mod quarantine;
mod scan;
mod snapshot;
mod store;
mod write;

pub use disk::{create_dir, used_bytes};
pub use error::{OpenError, StoreError};
pub use open::{Opened, Recovery};
pub use options::{KEY_BYTES_MAX, Options, OptionsError};
pub use scan::Scan;
pub use store::{Entry, Store};
pub use write::Write;

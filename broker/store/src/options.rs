//! Sizes and limits.

/// Longest key in bytes: an id of each kind in one key, with room to spare. Index pages hold up to 257 keys.
pub const KEY_BYTES_MAX: usize = 256;

/// Entries of a sled leaf while it is being split.
const LEAF_ENTRIES: usize = 17;
/// What sled adds to each entry of a leaf, rounded up: varints, and a share of the two bounds of the page.
const ENTRY_OVERHEAD: usize = 64;
/// What sled adds to each page that it writes: 20 bytes a segment, 32 a message.
const PAGE_OVERHEAD: usize = 52;

/// Sizes and limits of a store. The segment size is fixed when the store is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a log segment, a power of two of 64 KiB to 16 MiB. sled holds about two of them in memory.
    pub segment_bytes: usize,
    /// Most memory that the page cache may take.
    pub cache_bytes: u64,
    /// Longest value. One that does not fit into an entry is cut into pieces, within the same commit.
    pub value_bytes_max: usize,
    /// Most damaged stores that are kept in `quarantine/`, over all stores beside it; 0 deletes them at once.
    pub quarantine_max: usize,
}

/// Why options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// sled cannot work with this segment size.
    #[error("segment_bytes {segment_bytes} is not a power of two between 64 KiB and 16 MiB")]
    Segment {
        /// The size.
        segment_bytes: usize,
    },
    /// The values would be cut into more pieces than are counted.
    #[error("value_bytes_max {value_bytes_max} is over {limit} for this segment size")]
    Value {
        /// The wish.
        value_bytes_max: usize,
        /// The limit.
        limit: usize,
    },
}

impl Options {
    /// For small state that is read and overwritten: slots, registries, counters.
    ///
    /// Segments of 512 KiB, since smaller ones are many times slower. Values go up to 1 MiB: those over about 7 KiB
    /// are cut into pieces, because sled would put them into files that it neither syncs nor counts.
    pub const fn state() -> Self {
        Self {
            segment_bytes: 512 * 1024,
            cache_bytes: 4 << 20,
            value_bytes_max: 1 << 20,
            quarantine_max: 4,
        }
    }

    /// For one generation of a queue: appended to, read once, deleted as a whole.
    ///
    /// Values go up to 7 KiB, so that each is one entry. The cache is small: a queue is read in order, and the edge
    /// has 15 MB for everything.
    pub const fn generation() -> Self {
        Self {
            segment_bytes: 512 * 1024,
            cache_bytes: 1 << 20,
            value_bytes_max: 7 * 1024,
            quarantine_max: 2,
        }
    }

    /// Checks the limits against each other.
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        let segment_bytes = self.segment_bytes;
        if !segment_bytes.is_power_of_two() || !(64 * 1024..=16 << 20).contains(&segment_bytes) {
            return Err(OptionsError::Segment { segment_bytes });
        }
        let limit = self.piece_bytes() * usize::from(u16::MAX);
        if self.value_bytes_max > limit {
            return Err(OptionsError::Value {
                value_bytes_max: self.value_bytes_max,
                limit,
            });
        }
        Ok(())
    }

    /// Most bytes of one entry, key and value: 17 of them must stay below a quarter of a segment, or sled moves the
    /// page into a file of its own that escapes both the sync and the cache limit.
    pub(crate) const fn entry_bytes_max(&self) -> usize {
        (self.segment_bytes / 4 - PAGE_OVERHEAD) / LEAF_ENTRIES - ENTRY_OVERHEAD
    }

    /// Bytes of a value in one piece, whatever its key.
    pub(crate) const fn piece_bytes(&self) -> usize {
        self.entry_bytes_max() - crate::entry::OVERHEAD_MAX - KEY_BYTES_MAX
    }

    /// Whether a value may have to be cut.
    pub(crate) const fn may_cut(&self) -> bool {
        self.value_bytes_max > self.piece_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_sound() {
        Options::state().check().unwrap();
        Options::generation().check().unwrap();
        assert!(Options::state().may_cut());
        assert!(
            !Options::generation().may_cut(),
            "a value of a generation is one entry"
        );
    }

    #[test]
    fn a_full_leaf_stays_below_the_blob_limit() {
        for shift in 16..=24 {
            let options = Options {
                segment_bytes: 1 << shift,
                ..Options::state()
            };
            let leaf = LEAF_ENTRIES * (options.entry_bytes_max() + 8) + 2 * (KEY_BYTES_MAX + 8);
            assert!(
                leaf + PAGE_OVERHEAD < options.segment_bytes / 4,
                "segment of 1 << {shift}"
            );
        }
    }

    #[test]
    fn refuses_what_sled_cannot_do() {
        for segment_bytes in [0, 1, 32 * 1024, 500_000, 32 << 20] {
            let options = Options {
                segment_bytes,
                ..Options::state()
            };
            assert_eq!(
                options.check(),
                Err(OptionsError::Segment { segment_bytes })
            );
        }
        let options = Options {
            value_bytes_max: usize::MAX,
            ..Options::state()
        };
        assert!(matches!(options.check(), Err(OptionsError::Value { .. })));
    }
}

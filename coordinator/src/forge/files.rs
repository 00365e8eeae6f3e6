//! Files that are read within bounds, packed by gzip or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// Longest line, in bytes: a window that goes into a bundle's golden vectors has no more.
pub(super) const LINE_BYTES_MAX: u64 = lamppost_models::manifest::GOLDEN_BYTES_MAX as u64;

/// Opens a file, whose content comes unpacked when its name ends in `.gz`.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = BufReader::new(File::open(path)?);
    Ok(if path.extension().is_some_and(|end| end == "gz") {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

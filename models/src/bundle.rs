//! A model with all that is needed to run and to check it, as one file.
//!
//! A bundle is an uncompressed tar (POSIX ustar) of exactly `manifest.json`, `model.onnx` and `golden.json`, in this
//! order. Owner, time and mode are fixed when it is packed, so that the same content has the same digest.

use std::io::Read;

use crate::digest::Digest;
use crate::manifest::{
    GOLDEN_BYTES_MAX, Golden, MANIFEST_BYTES_MAX, MODEL_BYTES_MAX, Manifest, ManifestError,
};

/// Largest bundle in bytes: its three files, each at its limit, and the tar's blocks around them.
pub const BUNDLE_BYTES_MAX: u64 =
    MODEL_BYTES_MAX + (GOLDEN_BYTES_MAX + MANIFEST_BYTES_MAX) as u64 + 16 * 1024;

/// Names of the files, in their order.
pub const FILES: [&str; 3] = ["manifest.json", "model.onnx", "golden.json"];

/// A bundle whose parts agree with each other; whether the model runs, only an engine can say.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    digest: Digest,
    manifest: Manifest,
    model: Vec<u8>,
    golden: Golden,
}

/// Why some bytes are no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Too much to read.
    #[error("bundle has {bytes} bytes, the limit is {BUNDLE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Not a tar, or cut short.
    #[error("bundle is not a whole tar file")]
    Tar(#[source] std::io::Error),
    /// Another file than the expected one.
    #[error(
        "bundle has {found:?} where {wanted} should be: it holds manifest.json, model.onnx and golden.json in this order"
    )]
    Entry {
        /// What should be there.
        wanted: &'static str,
        /// What is there; empty for nothing.
        found: String,
    },
    /// One of the files is too large.
    #[error("{file} has {bytes} bytes, the limit is {limit}")]
    FileTooLarge {
        /// Which.
        file: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The manifest is refused.
    #[error("manifest is refused")]
    Manifest(#[from] ManifestError),
    /// A file is not the one that the manifest names.
    #[error("{file} has {found}, the manifest says {wanted}")]
    Digest {
        /// Which.
        file: &'static str,
        /// What the manifest says.
        wanted: Digest,
        /// What it has.
        found: Digest,
    },
    /// The ONNX file is not as long as the manifest says.
    #[error("model.onnx has {found} bytes, the manifest says {wanted}")]
    ModelBytes {
        /// What the manifest says.
        wanted: u64,
        /// What it has.
        found: u64,
    },
    /// The golden vectors do not parse.
    #[error("golden.json does not parse")]
    GoldenJson(#[source] serde_json::Error),
    /// The golden vectors do not fit the manifest.
    #[error("golden.json: {reason}")]
    Golden {
        /// What is wrong.
        reason: String,
    },
}

impl Bundle {
    /// Reads and checks a bundle.
    ///
    /// # Errors
    /// [`BundleError`] when it is not a whole tar of the three files, too large, or its parts do not agree.
    pub fn read(bytes: &[u8]) -> Result<Self, BundleError> {
        let size = bytes.len() as u64;
        if size > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge { bytes: size });
        }
        let [manifest, model, golden] = read_files(bytes)?;
        let (manifest, golden) = check_files(&manifest, &model, &golden)?;
        Ok(Self {
            digest: Digest::of(bytes),
            manifest,
            model,
            golden,
        })
    }

    /// Packs three files into the bytes of a bundle, after the checks of [`Bundle::read`].
    ///
    /// # Errors
    /// [`BundleError`] when the parts do not agree.
    pub fn pack(manifest: &[u8], model: &[u8], golden: &[u8]) -> Result<Vec<u8>, BundleError> {
        check_files(manifest, model, golden)?;
        let mut tar = tar::Builder::new(Vec::with_capacity(
            manifest.len() + model.len() + golden.len() + 8 * 512,
        ));
        for (name, content) in FILES.into_iter().zip([manifest, model, golden]) {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            tar.append_data(&mut header, name, content)
                .map_err(BundleError::Tar)?;
        }
        tar.into_inner().map_err(BundleError::Tar)
    }

    /// Digest of the whole bundle.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The description.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The ONNX file.
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// The golden vectors.
    pub const fn golden(&self) -> &Golden {
        &self.golden
    }
}

fn limit_of(file: &'static str) -> u64 {
    match file {
        "manifest.json" => MANIFEST_BYTES_MAX as u64,
        "model.onnx" => MODEL_BYTES_MAX,
        _ => GOLDEN_BYTES_MAX as u64,
    }
}

fn read_files(bytes: &[u8]) -> Result<[Vec<u8>; 3], BundleError> {
    let mut archive = tar::Archive::new(bytes);
    let mut entries = archive.entries().map_err(BundleError::Tar)?;
    let mut files = [const { Vec::new() }; 3];
    for (wanted, file) in FILES.into_iter().zip(&mut files) {
        let mut entry = match entries.next() {
            Some(entry) => entry.map_err(BundleError::Tar)?,
            None => {
                return Err(BundleError::Entry {
                    wanted,
                    found: String::new(),
                });
            }
        };
        if entry.path_bytes().as_ref() != wanted.as_bytes()
            || entry.header().entry_type() != tar::EntryType::Regular
        {
            let found = String::from_utf8_lossy(&entry.path_bytes())
                .chars()
                .take(100)
                .collect();
            return Err(BundleError::Entry { wanted, found });
        }
        let (size, limit) = (entry.size(), limit_of(wanted));
        if size > limit {
            return Err(BundleError::FileTooLarge {
                file: wanted,
                bytes: size,
                limit,
            });
        }
        entry.read_to_end(file).map_err(BundleError::Tar)?;
        if file.len() as u64 != size {
            return Err(BundleError::Tar(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
    match entries.next() {
        None => Ok(files),
        Some(Err(error)) => Err(BundleError::Tar(error)),
        Some(Ok(entry)) => {
            let found = String::from_utf8_lossy(&entry.path_bytes())
                .chars()
                .take(100)
                .collect();
            Err(BundleError::Entry {
                wanted: "the end",
                found,
            })
        }
    }
}

fn check_files(
    manifest: &[u8],
    model: &[u8],
    golden: &[u8],
) -> Result<(Manifest, Golden), BundleError> {
    for (file, content) in FILES.into_iter().zip([manifest, model, golden]) {
        let (bytes, limit) = (content.len() as u64, limit_of(file));
        if bytes > limit {
            return Err(BundleError::FileTooLarge { file, bytes, limit });
        }
    }
    let manifest = Manifest::parse(manifest)?;
    if model.len() as u64 != manifest.model.bytes {
        return Err(BundleError::ModelBytes {
            wanted: manifest.model.bytes,
            found: model.len() as u64,
        });
    }
    for (file, wanted, content) in [
        ("model.onnx", manifest.model.digest, model),
        ("golden.json", manifest.golden.digest, golden),
    ] {
        let found = Digest::of(content);
        if found != wanted {
            return Err(BundleError::Digest {
                file,
                wanted,
                found,
            });
        }
    }
    let golden: Golden = serde_json::from_slice(golden).map_err(BundleError::GoldenJson)?;
    check_golden(&manifest, &golden).map_err(|reason| BundleError::Golden { reason })?;
    Ok((manifest, golden))
}

fn check_golden(manifest: &Manifest, golden: &Golden) -> Result<(), String> {
    if golden.cases.is_empty() {
        return Err("there must be at least one case".to_owned());
    }
    for (index, case) in golden.cases.iter().enumerate() {
        let sizes = [
            ("features", case.features.len(), manifest.input_elements()),
            ("outputs", case.outputs.len(), manifest.output_elements()),
        ];
        if let Some((what, found, wanted)) = sizes.iter().find(|(_, found, wanted)| found != wanted)
        {
            return Err(format!(
                "cases[{index}].{what} has {found} numbers, the manifest says {wanted}"
            ));
        }
        if case.window.len() < manifest.window.count {
            let (found, wanted) = (case.window.len(), manifest.window.count);
            return Err(format!(
                "cases[{index}].window has {found} readings, the manifest says {wanted}"
            ));
        }
    }
    Ok(())
}

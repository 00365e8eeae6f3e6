//! Files that the tests share.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};

use lamppost_models::Digest;
use serde_json::Value;

pub(crate) const ZOO: [(&str, &str); 4] = [
    ("traffic-flow", "1.0.0"),
    ("traffic-flow", "1.1.0"),
    ("traffic-level", "1.0.0"),
    ("air-quality", "1.0.0"),
];

pub(crate) fn golden_path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file)
}

pub(crate) fn golden(file: &str) -> Vec<u8> {
    let path = golden_path(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn golden_json(file: &str) -> Value {
    serde_json::from_slice(&golden(file)).expect("JSON")
}

/// The files of a bundle of the zoo.
pub(crate) struct Parts {
    pub(crate) manifest: Vec<u8>,
    pub(crate) model: Vec<u8>,
    pub(crate) golden: Vec<u8>,
}

pub(crate) fn zoo(name: &str, version: &str) -> Parts {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("zoo")
        .join(name)
        .join(version);
    let read = |file: &str| std::fs::read(folder.join(file)).expect("a file of the zoo");
    Parts {
        manifest: read("manifest.json"),
        model: read("model.onnx"),
        golden: read("golden.json"),
    }
}

impl Parts {
    pub(crate) fn manifest_json(&self) -> Value {
        serde_json::from_slice(&self.manifest).expect("JSON")
    }

    /// Another golden file, with the manifest's digest made to fit.
    pub(crate) fn with_golden(mut self, golden: &Value) -> Self {
        self.golden = serde_json::to_vec(golden).expect("JSON");
        let mut manifest = self.manifest_json();
        manifest["golden"]["digest"] = serde_json::json!(Digest::of(&self.golden));
        self.manifest = serde_json::to_vec(&manifest).expect("JSON");
        self
    }
}

//! A trained file becomes a bundle: golden vectors by the engine, digests, and the engine's own check at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamppost_engine::{Engine, Limits};
use lamppost_models::manifest::{GOLDEN_BYTES_MAX, Golden, GoldenCase, ModelFile};
use lamppost_models::{Bundle, Digest, Manifest, Reading, Timestamp, V1};

use super::ForgeError;

/// Golden vectors of a new model; as many as those of the zoo have.
pub(crate) const CASES: usize = 8;

/// A bundle that the engine has opened and found true, and its bytes.
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) bundle: Bundle,
}

/// Makes a bundle of a file and a manifest, whose digests are set here; its golden vectors have these windows.
///
/// # Errors
/// [`ForgeError`] when the engine does not open or run it.
pub(crate) fn pack(
    manifest: &Manifest,
    model: &[u8],
    windows: &[Vec<Arc<Reading>>],
) -> Result<Packed, ForgeError> {
    let mut manifest = manifest.clone();
    manifest.model = ModelFile {
        digest: Digest::of(model),
        bytes: model.len() as u64,
    };
    let engine = draft(&manifest, model)?;
    let mut session = engine.session();
    let mut cases = Vec::with_capacity(windows.len());
    for window in windows {
        let features = session
            .features(window)
            .map_err(lamppost_engine::RunError::from)?;
        let features = features.to_vec();
        let outputs = session.infer_on(&features)?.to_vec();
        cases.push(GoldenCase {
            window: owned(window),
            features,
            outputs,
        });
    }
    let bytes = bytes(&manifest, model, cases)?;
    let bundle = Bundle::read(&bytes)?;
    Engine::open(&bundle, &Limits::default())?.check_golden()?;
    Ok(Packed { bytes, bundle })
}

/// An engine that has not been held to any golden vector: for features, and for the outputs that become golden.
pub(crate) fn draft(manifest: &Manifest, model: &[u8]) -> Result<Engine, ForgeError> {
    let mut manifest = manifest.clone();
    manifest.model = ModelFile {
        digest: Digest::of(model),
        bytes: model.len() as u64,
    };
    let reading = |_| Reading {
        ts: Timestamp::EPOCH,
        fields: BTreeMap::new(),
    };
    let case = GoldenCase {
        window: (0..manifest.window.count).map(reading).collect(),
        features: vec![0.0; manifest.input_elements()],
        outputs: vec![0.0; manifest.output_elements()],
    };
    let bundle = Bundle::read(&bytes(&manifest, model, vec![case])?)?;
    Ok(Engine::open(&bundle, &Limits::default())?)
}

fn bytes(
    manifest: &Manifest,
    model: &[u8],
    mut cases: Vec<GoldenCase>,
) -> Result<Vec<u8>, ForgeError> {
    loop {
        let golden = serde_json::to_vec(&Golden {
            schema: V1,
            cases: cases.clone(),
        })?;
        if golden.len() > GOLDEN_BYTES_MAX && cases.len() > 1 {
            // Windows of images: fewer cases are as good a proof.
            cases.truncate(cases.len() / 2);
            continue;
        }
        let mut manifest = manifest.clone();
        manifest.golden.digest = Digest::of(&golden);
        let text = serde_json::to_vec_pretty(&manifest)?;
        return Ok(Bundle::pack(&text, model, &golden)?);
    }
}

fn owned(window: &[Arc<Reading>]) -> Vec<Reading> {
    window
        .iter()
        .map(|reading| Reading::clone(reading))
        .collect()
}

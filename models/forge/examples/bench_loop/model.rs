//! Versions of traffic-flow: the zoo's structure and preprocessing, the forge's weights.

use std::error::Error;
use std::io::Write as _;
use std::ops::ControlFlow;

use lamppost_engine::{Engine, Limits, Session};
use lamppost_forge::{
    Architecture, DataSet, Draft, Format, Initial, Last, Loss, Network, Outcome, Recipe, Scale,
    Schedule, Split, Targets, Tensor, formats, make, quantise, train,
};
use lamppost_models::manifest::{Feature, OutputKind};
use lamppost_models::{Bundle, Digest, Manifest, Reading};
use serde_json::json;
use zstd::stream::write::Encoder;

use crate::i94::Window;

/// Structure and preprocessing.
const ZOO: &str = include_str!("../../../zoo/traffic-flow/1.0.0/manifest.json");
/// The last part of the samples says when to stop, and whether a version is better.
const HELD_OUT: f64 = 0.15;
/// Samples between the parts: their windows overlap.
const GAP: usize = 24;
/// Level of zstd for a bundle of this size, log2 of its window, and what RFC 9842 puts before: as the coordinator does.
const LEVEL: i32 = 19;
const WINDOW_LOG: u32 = 17;
const DICTIONARY_HEAD: usize = 40;

/// A version, in the engine that nodes run.
pub(crate) struct Version {
    pub(crate) network: Network,
    pub(crate) bundle: Vec<u8>,
    pub(crate) session: Session,
    /// Samples that it was trained from.
    pub(crate) samples: u64,
    manifest: Manifest,
}

/// How a version is trained from another.
pub(crate) fn recipe(seed: u64) -> Recipe {
    Recipe {
        epochs: 60,
        schedule: Schedule::Cosine { floor: 0.05 },
        patience: Some(10),
        ..Recipe::new(Loss::Huber { delta: 1.0 }, seed)
    }
}

impl Version {
    /// The first one, made from nothing; constants of its preprocessing are of its own samples.
    pub(crate) fn first(windows: &[Window], seed: u64) -> Result<Self, Box<dyn Error>> {
        let mut manifest: Manifest = serde_json::from_str(ZOO)?;
        #[expect(clippy::cast_possible_truncation, reason = "features are f32")]
        let truths = windows.iter().map(|window| window.value() as f32);
        let scale = Scale::of(truths);
        for feature in &mut manifest.features {
            if let Feature::Lag { mean, std, .. } = feature {
                (*mean, *std) = (scale.mean, scale.std);
            }
        }
        if let OutputKind::Value {
            scale: std, offset, ..
        } = &mut manifest.output.kind
        {
            (*std, *offset) = (scale.std, scale.mean);
        }
        let draft = Draft {
            name: "traffic-flow".to_owned(),
            input: Tensor {
                name: manifest.input.tensor.clone(),
                shape: manifest.input.shape.clone(),
            },
            output: manifest.output.tensor.clone(),
            outputs: 1,
            architecture: Architecture::Mlp {
                hidden: vec![64, 32],
            },
            head: Last::Dense,
            weights: Initial::He,
            seed,
        };
        let network = make(&draft)?;
        // Untrained it only makes features.
        let untrained = Self::of(network, manifest, windows, 0)?;
        let rows: Vec<usize> = (0..windows.len()).collect();
        let (trained, _) = untrained.next(windows, &rows, seed)?;
        Ok(trained)
    }

    fn of(
        network: Network,
        mut manifest: Manifest,
        windows: &[Window],
        samples: u64,
    ) -> Result<Self, Box<dyn Error>> {
        let file = quantise(&network, &formats(&network, Format::Int8))?.file;
        manifest.model.digest = Digest::of(&file);
        manifest.model.bytes = file.len() as u64;
        // As in the zoo: eight windows spread over those that were known.
        let chosen = (0..8).map(|at| &windows[at * (windows.len() - 1) / 7]);
        let blank = |outputs: &[Vec<f32>], features: &[Vec<f32>]| {
            let cases: Vec<_> = chosen
                .clone()
                .enumerate()
                .map(|(at, window)| json!({"window": window.readings.iter().map(AsRef::as_ref).collect::<Vec<&Reading>>(), "features": features[at], "outputs": outputs[at]}))
                .collect();
            json!({"schema": 1, "cases": cases})
                .to_string()
                .into_bytes()
        };
        let pack = |manifest: &mut Manifest, golden: &[u8]| -> Result<Vec<u8>, Box<dyn Error>> {
            manifest.golden.digest = Digest::of(golden);
            Ok(Bundle::pack(
                &serde_json::to_vec(&manifest)?,
                &file,
                golden,
            )?)
        };
        let width = manifest.input.shape.iter().product();
        let golden = blank(&vec![vec![0.0]; 8], &vec![vec![0.0; width]; 8]);
        let bundle = pack(&mut manifest, &golden)?;
        let mut session = Engine::open(&Bundle::read(&bundle)?, &Limits::default())?.session();
        let (mut outputs, mut features) = (Vec::new(), Vec::new());
        for window in chosen.clone() {
            features.push(session.features(&window.readings)?.to_vec());
            outputs.push(
                session
                    .infer_on(features.last().map_or(&[][..], Vec::as_slice))?
                    .to_vec(),
            );
        }
        let bundle = pack(&mut manifest, &blank(&outputs, &features))?;
        let engine = Engine::open(&Bundle::read(&bundle)?, &Limits::default())?;
        engine.check_golden()?;
        Ok(Self {
            network,
            bundle,
            session: engine.session(),
            samples,
            manifest,
        })
    }

    /// The next version, trained from this one on some windows, with its error on the held-out ones and that of this one.
    pub(crate) fn next(
        &self,
        windows: &[Window],
        rows: &[usize],
        seed: u64,
    ) -> Result<(Self, (f64, f64)), Box<dyn Error>> {
        let OutputKind::Value { scale, offset, .. } = self.manifest.output.kind else {
            return Err("traffic-flow has values".into());
        };
        let mut session = self.session.engine().session();
        let mut features = Vec::new();
        let mut values = Vec::with_capacity(rows.len());
        for &row in rows {
            features.extend_from_slice(session.features(&windows[row].readings)?);
            #[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
            values.push(((windows[row].value() - offset) / scale) as f32);
        }
        let width = self.manifest.input.shape.iter().product();
        let data = DataSet::new(width, features, Targets::Values { width: 1, values })?;
        let split: Split = data.split_tail(HELD_OUT, GAP)?;
        let mut network = self.network.clone();
        let _: Outcome = train(&mut network, &split, &recipe(seed), None, &mut |_| {
            ControlFlow::Continue(())
        })?;
        let held_out = &rows[rows.len() - split.valid.len()..];
        let mut next = Self::of(
            network,
            self.manifest.clone(),
            &windows[..=rows[rows.len() - 1]],
            rows.len() as u64,
        )?;
        let mut errors = (0.0, 0.0);
        for &row in held_out {
            errors.0 += next.error(&windows[row])?;
            errors.1 += (value(&mut session, &windows[row])? - windows[row].value()).abs();
        }
        let count = held_out.len() as f64;
        Ok((next, (errors.0 / count, errors.1 / count)))
    }

    /// The absolute error of its prediction.
    pub(crate) fn error(&mut self, window: &Window) -> Result<f64, Box<dyn Error>> {
        Ok((value(&mut self.session, window)? - window.value()).abs())
    }

    /// Bytes that a node fetches of it when it has another: as the coordinator packs them.
    pub(crate) fn fetched(&self, before: &Self) -> Result<u64, Box<dyn Error>> {
        let mut packer = Encoder::with_ref_prefix(Vec::new(), LEVEL, &before.bundle)?;
        packer.window_log(WINDOW_LOG)?;
        packer.include_checksum(false)?;
        packer.write_all(&self.bundle)?;
        Ok((DICTIONARY_HEAD + packer.finish()?.len()) as u64)
    }
}

fn value(session: &mut Session, window: &Window) -> Result<f64, Box<dyn Error>> {
    Ok(session
        .run(&window.readings)?
        .value
        .ok_or("a forecast without a value")?)
}

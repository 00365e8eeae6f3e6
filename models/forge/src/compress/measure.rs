//! Candidates in the engine that nodes run.

use std::time::Instant;

use lamppost_engine::{Engine, Limits};
use lamppost_models::bundle::BundleError;
use lamppost_models::{Bundle, Digest};
use serde_json::{Value, json};

use super::CompressError;
use crate::chart::Chart;
use crate::data::DataSet;
use crate::network::{Network, Side};
use crate::train::{Loss, Quality, evaluate};

/// Rounds in which all candidates take turns: what disturbs the machine disturbs all of them.
const ROUNDS: usize = 40;
/// Runs of each candidate in a round, over as many samples.
const RUNS: usize = 50;
/// How far the engine's outputs may be from what the quality was measured on, relative to them.
const AGREES_WITHIN: f32 = 1e-3;

/// What a candidate is.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// Which.
    pub name: String,
    /// Size of its file.
    pub bytes: usize,
    /// Quality on the samples.
    pub quality: Quality,
    /// Half of the engine's runs took at most this, in microseconds.
    pub median_us: f64,
    /// Nine of ten took at most this, in microseconds.
    pub p90_us: f64,
    /// Largest difference of the engine's outputs to those that the quality was measured on, relative to them.
    pub difference_max: f32,
}

/// What a candidate must keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// How much larger its error may be, relative to the first's.
    pub max_loss: f64,
    /// How many times as fast it must be.
    pub min_speedup: f64,
}

impl Terms {
    /// What speaks against a candidate; nothing where it keeps to the terms.
    pub fn objections(&self, base: &Measure, candidate: &Measure) -> Vec<String> {
        let mut objections = Vec::new();
        let (was, is) = (base.quality.error(), candidate.quality.error());
        if is > was * (1.0 + self.max_loss) {
            objections.push(format!(
                "its error is {is:.5}, from {was:.5}; up to {:.1} % more is allowed",
                100.0 * self.max_loss
            ));
        }
        let speedup = base.median_us / candidate.median_us;
        if speedup < self.min_speedup {
            objections.push(format!(
                "it is {speedup:.2} times as fast, it must be {:.2}",
                self.min_speedup
            ));
        }
        if candidate.difference_max > AGREES_WITHIN {
            objections.push(format!(
                "the engine's outputs differ by {}",
                candidate.difference_max
            ));
        }
        objections
    }
}

/// Measures some files on the same samples; latency in turns, one thread, without the preprocessing.
///
/// # Errors
/// [`MeasureError`] when a file does not open in forge or engine, or the samples do not suit it.
pub fn measure(
    candidates: &[(&str, &[u8])],
    data: &DataSet,
    loss: Loss,
) -> Result<Vec<Measure>, MeasureError> {
    let mut sessions = Vec::with_capacity(candidates.len());
    let mut measures = Vec::with_capacity(candidates.len());
    let rows = &data.features()[..data.width() * data.len().min(RUNS)];
    for &(name, file) in candidates {
        let network = Network::open(file).map_err(CompressError::from)?;
        let quality = evaluate(&network, data, loss).map_err(CompressError::from)?;
        let bundle = bundle(file, network.input(), network.output())?;
        let mut session = Engine::open(&bundle, &Limits::default())?.session();
        let ours = network.predict(rows).map_err(|error| MeasureError::Run {
            reason: error.to_string(),
        })?;
        let mut difference_max = 0.0_f32;
        for (sample, ours) in rows
            .chunks(data.width())
            .zip(ours.chunks(network.output().elements()))
        {
            for (theirs, ours) in session.infer_on(sample)?.iter().zip(ours) {
                difference_max = difference_max.max((theirs - ours).abs() / (1.0 + ours.abs()));
            }
        }
        sessions.push(session);
        measures.push(Measure {
            name: name.to_owned(),
            bytes: file.len(),
            quality,
            median_us: 0.0,
            p90_us: 0.0,
            difference_max,
        });
    }
    let mut times = vec![Vec::with_capacity(ROUNDS * RUNS); sessions.len()];
    for _ in 0..ROUNDS {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            for sample in rows.chunks(data.width()) {
                let start = Instant::now();
                session.infer_on(sample)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    for (measure, times) in measures.iter_mut().zip(&mut times) {
        times.sort_unstable_by(f64::total_cmp);
        measure.median_us = times[times.len() / 2];
        measure.p90_us = times[times.len() * 9 / 10];
    }
    Ok(measures)
}

/// A Markdown table, each candidate beside the first.
pub fn table(measures: &[Measure]) -> String {
    let mut text = String::from(
        "| model | bytes | smaller | error | relative | median | faster |\n|---|---|---|---|---|---|---|\n",
    );
    let Some(base) = measures.first() else {
        return text;
    };
    for measure in measures {
        let (was, is) = (base.quality.error(), measure.quality.error());
        let cells = [
            measure.name.clone(),
            measure.bytes.to_string(),
            format!("{:.2} x", base.bytes as f64 / measure.bytes as f64),
            format!("{is:.5}"),
            format!("{:+.2} %", 100.0 * (is / was.max(f64::MIN_POSITIVE) - 1.0)),
            format!("{:.1} us", measure.median_us),
            format!("{:.2} x", base.median_us / measure.median_us),
        ];
        text.push_str("| ");
        text.push_str(&cells.join(" | "));
        text.push_str(" |\n");
    }
    text
}

/// Error against size, a dot for each candidate: what is below and left of another is better in both.
pub fn measures_svg(measures: &[Measure], title: &str) -> String {
    let dot = |measure: &Measure| {
        let place = (measure.bytes as f64, measure.quality.error());
        (measure.name.clone(), vec![place])
    };
    let chart = Chart {
        title,
        across: "bytes",
        logarithmic: false,
        lines: measures.iter().map(dot).collect(),
        mark: None,
    };
    chart.svg()
}

/// A bundle around a file, for the engine: features are numbers as they are.
fn bundle(file: &[u8], input: &Side, output: &Side) -> Result<Bundle, MeasureError> {
    let (width, outputs) = (input.elements(), output.elements());
    let (task, kind) = if outputs == 1 {
        ("anomaly", json!({"score": {"threshold": 0.0}}))
    } else {
        let names: Vec<String> = (0..outputs).map(|at| format!("o{at}")).collect();
        (
            "classification",
            json!({"labels": {"names": names, "activation": "none"}}),
        )
    };
    let second = |at: usize| {
        format!(
            "1970-01-{:02}T{:02}:{:02}:{:02}Z",
            1 + at / 86_400,
            at / 3_600 % 24,
            at / 60 % 60,
            at % 60
        )
    };
    let window: Vec<Value> = (0..width)
        .map(|at| json!({"ts": second(at), "fields": {"x": 0.0}}))
        .collect();
    // The golden vectors are never checked: what they should be is what is asked here.
    let golden = json!({"schema": 1, "cases": [{"window": window, "features": vec![0.0; width], "outputs": vec![0.0; outputs]}]});
    let golden = golden.to_string().into_bytes();
    let manifest = json!({
        "schema": 1, "name": "candidate", "version": "0.0.0", "task": task, "summary": "measured by the forge",
        "model": {"digest": Digest::of(file), "bytes": file.len()},
        "input": {"tensor": input.name, "shape": input.shape, "dtype": "f32"},
        "window": {"count": width},
        "features": [{"op": "select", "field": "x", "last": width}],
        "output": {"tensor": output.name, "shape": output.shape, "kind": kind},
        "golden": {"digest": Digest::of(&golden), "abs_tolerance": 1.0, "rel_tolerance": 1.0},
        "provenance": {"created_at": "1970-01-01T00:00:00Z", "trainer": "forge", "data": "none"},
    });
    let packed = Bundle::pack(manifest.to_string().as_bytes(), file, &golden)?;
    Ok(Bundle::read(&packed)?)
}

/// Why a candidate is not measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// It does not open here, or the samples do not suit it.
    #[error("candidate cannot be judged")]
    Forge(#[from] CompressError),
    /// It makes no bundle: a shape or a size that no manifest may have.
    #[error("candidate makes no bundle")]
    Bundle(#[from] BundleError),
    /// It does not open in the engine.
    #[error("engine does not open it")]
    Open(#[from] lamppost_engine::OpenError),
    /// It does not run in the engine.
    #[error("engine does not run it")]
    Engine(#[from] lamppost_engine::RunError),
    /// It does not run here.
    #[error("candidate does not run: {reason}")]
    Run {
        /// Why.
        reason: String,
    },
}

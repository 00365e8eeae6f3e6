//! A bundle's model, ready to run, and a thread's way to run it.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Instant;

use lamppost_models::manifest::Golden;
use lamppost_models::{Bundle, Digest, Manifest, Reading};

use crate::decode::{self, Output};
use crate::error::{OpenError, RunError, RunFailure, Unfit};
use crate::features::{Circle, Pipeline};
use crate::golden::{self, GoldenError, GoldenReport};
use crate::limits::Limits;
use crate::plan::{Plan, Runner};

/// A model that has been opened within limits and agrees with its manifest. Clones share everything.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    digest: Digest,
    manifest: Manifest,
    golden: Golden,
    pipeline: Pipeline,
    plan: Plan,
    limits: Limits,
}

impl Engine {
    /// Opens the model of a bundle; it has been run not once then.
    ///
    /// # Errors
    /// [`OpenError`] when the model goes over a limit, is not what the manifest says, or is nothing that tract runs.
    pub fn open(bundle: &Bundle, limits: &Limits) -> Result<Self, OpenError> {
        let manifest = bundle.manifest();
        let plan = Plan::open(bundle.model(), manifest, limits, Instant::now())?;
        Ok(Self(Arc::new(Shared {
            digest: bundle.digest(),
            manifest: manifest.clone(),
            golden: bundle.golden().clone(),
            pipeline: Pipeline::new(manifest),
            plan,
            limits: limits.clone(),
        })))
    }

    /// The description.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Digest of the bundle.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Buffers and state for one thread.
    pub fn session(&self) -> Session {
        let features = Vec::with_capacity(self.0.manifest.input_elements());
        let outputs = Vec::with_capacity(self.0.manifest.output_elements());
        Session {
            engine: self.clone(),
            features,
            outputs,
            circle: Circle::default(),
            runner: Runner::default(),
        }
    }

    /// Runs the model once to warm it up, then on its golden vectors: features and outputs must agree with them within
    /// the manifest's tolerance.
    ///
    /// # Errors
    /// [`GoldenError`] at the first case that differs or fails, or when it takes longer than the limit.
    pub fn check_golden(&self) -> Result<GoldenReport, GoldenError> {
        golden::check(
            &mut self.session(),
            &self.0.golden,
            self.0.limits.golden_time,
        )
    }

    /// Bytes of the weights as the plan holds them.
    pub fn weight_bytes(&self) -> u64 {
        self.0.plan.weight_bytes()
    }

    /// The most bytes that intermediate tensors take during a run.
    pub fn run_bytes(&self) -> u64 {
        self.0.plan.run_bytes()
    }

    /// How many operations a run takes, about: both branches of a condition, and each turn of a loop.
    pub fn run_work(&self) -> u64 {
        self.0.plan.run_work()
    }

    pub(crate) fn golden(&self) -> &Golden {
        &self.0.golden
    }
}

/// One thread's way to run an [`Engine`]: it keeps the buffers between runs.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    features: Vec<f32>,
    outputs: Vec<f32>,
    circle: Circle,
    runner: Runner,
}

impl Session {
    /// The engine that it runs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs the model on a window, whose readings are oldest first; features look back from the newest.
    ///
    /// # Errors
    /// [`RunError::Unfit`] when the window does not suit the manifest: too few readings, uneven steps, a field missing
    /// or not finite. [`RunError::Failed`] when the inference fails or its result is not finite. Either way the session
    /// can go on with the next window.
    pub fn run<R: Borrow<Reading>>(&mut self, window: &[R]) -> Result<Output, RunError> {
        self.features(window)?;
        self.infer()?;
        Ok(decode::decode(
            &self.engine.0.manifest,
            &self.features,
            &self.outputs,
        )?)
    }

    /// The input tensor of a window, row-major.
    ///
    /// # Errors
    /// [`Unfit`] when the window does not suit the manifest.
    pub fn features<R: Borrow<Reading>>(&mut self, window: &[R]) -> Result<&[f32], Unfit> {
        let pipeline = &self.engine.0.pipeline;
        pipeline.fill(window, &mut self.circle, &mut self.features)?;
        Ok(&self.features)
    }

    /// Runs the model on an input tensor that was made elsewhere and gives its raw output: for measuring.
    ///
    /// # Errors
    /// [`RunError::Failed`] when the inference fails, as it does for another number of features.
    pub fn infer_on(&mut self, features: &[f32]) -> Result<&[f32], RunError> {
        self.set_features(features);
        Ok(self.infer()?)
    }

    /// Runs the model on the features that are in the buffer and gives its raw output.
    pub(crate) fn infer(&mut self) -> Result<&[f32], RunFailure> {
        self.runner
            .run(&self.engine.0.plan, &self.features, &mut self.outputs)?;
        Ok(&self.outputs)
    }

    /// Puts the golden features into the buffer, in place of a window's.
    pub(crate) fn set_features(&mut self, features: &[f32]) {
        self.features.clear();
        self.features.extend_from_slice(features);
    }
}

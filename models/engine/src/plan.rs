//! Opens and runs a model with tract.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use lamppost_models::Manifest;
use tract_onnx::prelude::{
    Datum, Framework as _, InferenceFact, InferenceModel, InferenceModelExt as _,
    IntoRunnable as _, IntoTValue as _, Tensor, TractResult, TypedFact, TypedModel,
    TypedRunnableModel, TypedSimpleState, tvec,
};
use tract_onnx::tract_hir::infer::{DimFact, Factoid as _};
use tract_onnx::tract_hir::internal::{OutletId, SymbolValues, TDim};

use crate::error::{OpenError, RunFailure};
use crate::limits::Limits;
use crate::{graph, guard};

mod extent;

/// An optimised model, shared by threads.
pub(crate) struct Plan {
    runnable: Arc<TypedRunnableModel>,
    input_shape: Vec<usize>,
    weight_bytes: u64,
    run_bytes: u64,
    run_work: u64,
}

impl Plan {
    /// Opens `file`; the time that this may take counts from `start`.
    pub(crate) fn open(
        file: &[u8],
        manifest: &Manifest,
        limits: &Limits,
        start: Instant,
    ) -> Result<Self, OpenError> {
        let bytes = file.len() as u64;
        if bytes > limits.model_bytes {
            return Err(OpenError::TooLarge {
                bytes,
                limit: limits.model_bytes,
            });
        }
        // Shapes of intermediate values are inferred and not believed.
        let onnx = tract_onnx::onnx()
            .with_ignore_value_info(true)
            .with_ignore_output_shapes(true);
        let proto = graph::read(&onnx, file, manifest, limits)?;
        let watch = Watch { limits, start };
        let mut model = watch.stage("building the graph", || onnx.model_for_proto_model(&proto))?;
        drop(proto);
        let shape = &manifest.input.shape;
        watch.stage("setting the input", || {
            let fact = InferenceFact::dt_shape(f32::datum_type(), shape);
            model.set_input_fact(0, fact)
        })?;
        watch.stage("inferring sizes", || Ok(watch.infer_sizes(&mut model)))??;
        let mut typed = watch.stage("inferring types", || model.into_typed())?;
        watch.stage("checking sizes", || Ok(watch.check_sizes(&typed)))??;
        watch.stage("simplifying", || typed.declutter())?;
        watch.stage("checking sizes", || Ok(watch.check_sizes(&typed)))??;
        let weight_bytes = watch.stage("measuring", || Ok(weights(&typed)))?;
        let extent = watch.stage("measuring", || watch.extent(&typed))??;
        at_most("operations in a run", extent.work, limits.run_work)?;
        watch.stage("optimising", || typed.optimize())?;
        watch.stage("checking the output", || Ok(check_output(&typed, manifest)))??;
        let run_bytes = watch.stage("measuring", || peak(&typed))?;
        let run_bytes = run_bytes.saturating_add(extent.body_bytes);
        at_most("bytes in flight", run_bytes, limits.run_bytes)?;
        let runnable = watch.stage("planning", || typed.into_runnable())?;
        Ok(Self {
            runnable,
            input_shape: shape.clone(),
            weight_bytes,
            run_bytes,
            run_work: extent.work,
        })
    }

    pub(crate) const fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    pub(crate) const fn run_bytes(&self) -> u64 {
        self.run_bytes
    }

    pub(crate) const fn run_work(&self) -> u64 {
        self.run_work
    }
}

fn at_most(what: &'static str, found: u64, limit: u64) -> Result<(), OpenError> {
    if found > limit {
        Err(OpenError::TooMuch { what, found, limit })
    } else {
        Ok(())
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("input_shape", &self.input_shape)
            .field("weight_bytes", &self.weight_bytes)
            .field("run_bytes", &self.run_bytes)
            .field("run_work", &self.run_work)
            .finish_non_exhaustive()
    }
}

/// Limits and the time when opening began.
struct Watch<'a> {
    limits: &'a Limits,
    start: Instant,
}

impl Watch<'_> {
    /// Runs one step within the deadline and the guard.
    fn stage<T>(
        &self,
        stage: &'static str,
        work: impl FnOnce() -> TractResult<T>,
    ) -> Result<T, OpenError> {
        self.check_time()?;
        match guard::catch(|| work().map_err(|error| guard::cut(&format!("{error:#}")))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(reason)) => Err(OpenError::Tract { stage, reason }),
            Err(message) => Err(OpenError::Panicked { stage, message }),
        }
    }

    fn check_time(&self) -> Result<(), OpenError> {
        let limit = self.limits.open_time;
        if self.start.elapsed() > limit {
            Err(OpenError::Deadline { limit })
        } else {
            Ok(())
        }
    }

    /// Goes through the nodes in their order, and looks at the size of each output before anything is computed of it:
    /// tract evaluates what depends on constants alone as soon as it infers.
    fn infer_sizes(&self, model: &mut InferenceModel) -> Result<(), OpenError> {
        let stage = "inferring sizes";
        let tract = |error| OpenError::Tract {
            stage,
            reason: guard::cut(&format!("{error:#}")),
        };
        for node in model.eval_order().map_err(tract)? {
            self.check_time()?;
            let name = model.node(node).name.clone();
            let inner = |error| OpenError::Tract {
                stage,
                reason: guard::cut(&format!("node {name}: {error:#}")),
            };
            let (inputs, outputs) = model.node_facts(node).map_err(inner)?;
            let inputs: Vec<InferenceFact> = inputs.into_iter().cloned().collect();
            let outputs: Vec<InferenceFact> = outputs.into_iter().cloned().collect();
            if model.node(node).op.name() == "Range" {
                self.check_elements(&name, range_length(&inputs))?;
            }
            let seen = model
                .node(node)
                .op
                .observe_outlets(model, model.node(node))
                .map_err(inner)?;
            let seen = seen
                .iter()
                .map(|outlet| model.outlet_fact(*outlet).cloned());
            let seen = seen.collect::<TractResult<Vec<_>>>().map_err(inner)?;
            let op = &mut model.node_mut(node).op;
            let facts = op.infer_facts(
                inputs.iter().collect(),
                outputs.iter().collect(),
                seen.iter().collect(),
            );
            for fact in &facts.map_err(inner)?.1 {
                self.check_elements(&name, known_elements(fact))?;
            }
            let op = &mut model.node_mut(node).op;
            let facts = op.infer(
                inputs.iter().collect(),
                outputs.iter().collect(),
                seen.iter().collect(),
            );
            for (slot, (found, known)) in facts.map_err(inner)?.1.iter().zip(&outputs).enumerate() {
                let fact = known.unify(found).map_err(inner)?;
                model
                    .set_outlet_fact(OutletId::new(node, slot), fact)
                    .map_err(inner)?;
            }
        }
        Ok(())
    }

    /// Every output of every node has a fixed size within the limit.
    fn check_sizes(&self, model: &TypedModel) -> Result<(), OpenError> {
        for node in model.nodes() {
            for output in &node.outputs {
                match output.fact.shape.as_concrete() {
                    Some(shape) => self.check_elements(&node.name, product(shape))?,
                    None => {
                        return Err(OpenError::Dynamic {
                            node: guard::cut(&node.name),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn check_elements(&self, node: &str, elements: u64) -> Result<(), OpenError> {
        let limit = self.limits.node_elements;
        if elements > limit {
            return Err(OpenError::NodeTooLarge {
                node: guard::cut(node),
                elements,
                limit,
            });
        }
        Ok(())
    }
}

fn product(shape: &[usize]) -> u64 {
    shape
        .iter()
        .fold(1, |all, &dim| all.saturating_mul(dim as u64))
}

/// How many elements an inferred output has; 0 when it is not known: then nothing can be computed of it yet.
fn known_elements(fact: &InferenceFact) -> u64 {
    let size = |dim: &DimFact| {
        dim.concretize()?
            .maybe_eval_to_i64(&SymbolValues::default())
    };
    let sizes: Option<Vec<i64>> = fact.shape.dims().map(size).collect();
    let sizes = sizes
        .filter(|_| !fact.shape.is_open())
        .unwrap_or_else(|| vec![0]);
    sizes.iter().fold(1, |all, &dim| {
        all.saturating_mul(u64::try_from(dim).unwrap_or(0))
    })
}

/// How many elements a `Range` makes of constants: what tract infers is wrong for a negative step.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of f64 saturates"
)]
fn range_length(inputs: &[InferenceFact]) -> u64 {
    let number = |fact: &InferenceFact| fact.value.concretize()?.cast_to_scalar::<f64>().ok();
    match inputs
        .iter()
        .map(number)
        .collect::<Option<Vec<f64>>>()
        .as_deref()
    {
        Some([start, end, step]) => ((end - start) / step).ceil() as u64,
        _ => 0,
    }
}

fn check_output(model: &TypedModel, manifest: &Manifest) -> Result<(), OpenError> {
    let side = "output";
    let (tensor, wanted) = (&manifest.output.tensor, &manifest.output.shape);
    let fact = model.output_fact(0).map_err(|error| OpenError::Tract {
        stage: "checking the output",
        reason: guard::cut(&format!("{error:#}")),
    })?;
    if fact.datum_type != f32::datum_type() {
        // Tract has a type of its own for ONNX's integers, since they may be dimensions.
        let integer = fact.datum_type == TDim::datum_type();
        let found = if integer {
            "integers".to_owned()
        } else {
            format!("{:?}", fact.datum_type)
        };
        return Err(OpenError::Type {
            side,
            tensor: tensor.clone(),
            found,
        });
    }
    if fact.shape.as_concrete() != Some(wanted) {
        let found = guard::cut(&format!("{:?}", fact.shape));
        return Err(OpenError::Shape {
            side,
            tensor: tensor.clone(),
            found,
            wanted: wanted.clone(),
        });
    }
    Ok(())
}

fn fact_bytes(fact: &TypedFact) -> u64 {
    product(fact.shape.as_concrete().unwrap_or_default())
        .saturating_mul(fact.datum_type.size_of() as u64)
}

/// Bytes of all constants.
fn weights(model: &TypedModel) -> u64 {
    let outputs = model.nodes().iter().flat_map(|node| &node.outputs);
    outputs
        .filter(|output| output.fact.konst.is_some())
        .map(|output| fact_bytes(&output.fact))
        .sum()
}

/// The most bytes of intermediate tensors that are alive at once, when each is dropped after its last use.
fn peak(model: &TypedModel) -> TractResult<u64> {
    let order = model.eval_order()?;
    let mut place = vec![0; model.nodes().len()];
    for (at, &node) in order.iter().enumerate() {
        place[node] = at;
    }
    let mut freed = vec![0_u64; order.len() + 1];
    let (mut alive, mut most) = (0_u64, 0_u64);
    for (at, &id) in order.iter().enumerate() {
        let node = model.node(id);
        for (slot, output) in node
            .outputs
            .iter()
            .enumerate()
            .filter(|(_, output)| output.fact.konst.is_none())
        {
            let bytes = fact_bytes(&output.fact);
            let is_result = model.output_outlets()?.contains(&OutletId::new(id, slot));
            let last = output
                .successors
                .iter()
                .map(|next| place[next.node])
                .max()
                .unwrap_or(at);
            alive = alive.saturating_add(bytes);
            freed[if is_result { order.len() } else { last.max(at) }] += bytes;
        }
        most = most.max(alive);
        alive = alive.saturating_sub(freed[at]);
    }
    Ok(most)
}

/// One thread's state of a plan: tract's scratch memory and the input tensor, kept from run to run.
#[derive(Debug, Default)]
pub(crate) struct Runner(Option<State>);

#[derive(Debug)]
struct State {
    tract: TypedSimpleState,
    input: Arc<Tensor>,
}

impl Runner {
    /// Replaces the content of `out` by the model's output on `features`.
    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        features: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<(), RunFailure> {
        out.clear();
        // After an error or a panic nobody knows what the state holds: it is dropped and made anew.
        let state = self.0.take();
        let work = || {
            let mut state = match state {
                Some(state) => state,
                None => State {
                    tract: plan.runnable.spawn()?,
                    input: Tensor::zero::<f32>(&plan.input_shape)?.into(),
                },
            };
            // The plan has let go of the tensor by now, so that this copies nothing, unless the output is a view of it.
            let input = Arc::make_mut(&mut state.input);
            input
                .try_as_plain_ram_mut()?
                .as_slice_mut::<f32>()?
                .copy_from_slice(features);
            let outputs = state
                .tract
                .run(tvec!(Arc::clone(&state.input).into_tvalue()))?;
            if let Some(output) = outputs.first() {
                out.extend_from_slice(output.try_as_plain_ram()?.as_slice::<f32>()?);
            }
            TractResult::Ok(state)
        };
        match guard::catch(|| work().map_err(|error| guard::cut(&format!("{error:#}")))) {
            Ok(Ok(state)) => {
                self.0 = Some(state);
                Ok(())
            }
            Ok(Err(reason)) => Err(RunFailure::Tract { reason }),
            Err(message) => Err(RunFailure::Panicked { message }),
        }
    }
}

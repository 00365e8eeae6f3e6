//! How much a run computes, with what is within conditions and loops.
//!
//! A golden vector takes one branch of an `If`; live data may take the other, which may be the one that asks for all
//! memory or never comes to an end. So both are looked at. Tract knows no `Loop`: a `Scan` goes as often as its input is
//! long, and all sizes are fixed, so that the work of a run is finite and can be added up.

use tract_onnx::prelude::{TDim, TractResult, TypedFact, TypedModel};
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::scan::{Scan, iteration_count};

use super::{Watch, peak, product};
use crate::error::OpenError;

/// What a node takes besides its arithmetic: tract's own time of about 0.1 us, in operations.
const NODE_WORK: u64 = 100;

/// What a run takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Multiplications and elements written, roughly.
    pub(super) work: u64,
    /// Bytes of the intermediate tensors of the largest body.
    pub(super) body_bytes: u64,
}

impl Watch<'_> {
    /// Looks at a model and all bodies within it. Both branches of an `If` count as if they were taken.
    pub(super) fn extent(&self, model: &TypedModel) -> TractResult<Result<Extent, OpenError>> {
        let mut all = Extent::default();
        for node in model.nodes() {
            let inputs = model.node_input_facts(node.id)?;
            let outputs = node.outputs.iter().map(|output| elements(&output.fact));
            let own = outputs.fold(arithmetic(&node.op.cost(&inputs)?), u64::saturating_add);
            all.work = all.work.saturating_add(own).saturating_add(NODE_WORK);
            for (body, times) in bodies(node.op.as_ref(), &inputs) {
                if let Err(error) = self.check_sizes(body) {
                    return Ok(Err(error));
                }
                let inner = match self.extent(body)? {
                    Ok(inner) => inner,
                    Err(error) => return Ok(Err(error)),
                };
                all.work = all.work.saturating_add(inner.work.saturating_mul(times));
                let bytes = peak(body)?.saturating_add(inner.body_bytes);
                all.body_bytes = all.body_bytes.max(bytes);
            }
        }
        Ok(Ok(all))
    }
}

/// The models within a node, each with how often it runs.
fn bodies<'a>(
    op: &'a dyn tract_onnx::prelude::TypedOp,
    inputs: &[&TypedFact],
) -> Vec<(&'a TypedModel, u64)> {
    if let Some(either) = op.downcast_ref::<IfThenElse>() {
        return vec![(&either.then_body, 1), (&either.else_body, 1)];
    }
    match op.downcast_ref::<Scan>() {
        // One without an input to go along does not open.
        Some(scan) => {
            let times = iteration_count(&scan.input_mapping, inputs);
            vec![(&scan.body, times.as_ref().map_or(u64::MAX, number))]
        }
        None => Vec::new(),
    }
}

fn elements(fact: &TypedFact) -> u64 {
    product(fact.shape.as_concrete().unwrap_or_default())
}

fn arithmetic(costs: &[(Cost, TDim)]) -> u64 {
    costs
        .iter()
        .filter(|(cost, _)| cost.is_compute())
        .fold(0, |all: u64, (_, count)| all.saturating_add(number(count)))
}

/// What is not a plain number has no bound.
fn number(dim: &TDim) -> u64 {
    dim.to_i64()
        .ok()
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or(u64::MAX)
}

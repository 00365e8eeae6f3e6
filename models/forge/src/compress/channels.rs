//! Whole filters and neurons, taken away (Li et al., arXiv 1608.08710): the smallest by the sum of their absolute weights.
//!
//! A channel that a product makes goes on through element-wise steps, normalisations, pools and flattening to products
//! that take it in. Where all of that is known, its row is cut out of the one weight, its column out of the others, and
//! its numbers out of everything between. Where it joins another value, or reaches the output, it stays.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb;

use super::CompressError;
use crate::graph::{Batch, Constant, Graph, Numbers, Op, Source, Step, tensor};
use crate::network::{Network, Parameter};

/// A weight whose output channels can be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prunable {
    /// Name of the weight.
    pub name: String,
    /// How many channels it has.
    pub channels: usize,
}

/// All weights whose output channels can be cut, in the order of the graph.
pub fn prunable(network: &Network) -> Vec<Prunable> {
    let graph = network.graph();
    let weights = graph.steps.iter().filter_map(|step| producer(graph, step));
    let weights = weights.filter(|producer| cuts(graph, producer).is_ok());
    let name = |producer: Producer| Prunable {
        name: graph.weights[producer.weight].name.clone(),
        channels: producer.channels,
    };
    weights.map(name).collect()
}

/// Cuts the given share of each named weight's output channels, but for one at least. The result is to be trained again.
///
/// # Errors
/// [`CompressError`] when a share is not from 0 to below 1, or the channels of a weight cannot be cut.
pub fn cut_channels(network: &Network, shares: &[(String, f64)]) -> Result<Network, CompressError> {
    let mut cut = network.clone();
    for (name, share) in shares {
        if !(0.0..1.0).contains(share) {
            return Err(CompressError::Share {
                name: name.clone(),
                share: share.to_string(),
            });
        }
        cut = cut_one(&cut, name, *share)?;
    }
    Ok(cut)
}

fn cut_one(network: &Network, name: &str, share: f64) -> Result<Network, CompressError> {
    let graph = network.graph();
    let refuse = |reason: String| CompressError::Channels {
        name: name.to_owned(),
        reason,
    };
    let named = |producer: &Producer| graph.weights[producer.weight].name == name;
    let Some(producer) = graph
        .steps
        .iter()
        .filter_map(|step| producer(graph, step))
        .find(named)
    else {
        return Err(CompressError::Weight {
            name: name.to_owned(),
            known: prunable(network)
                .into_iter()
                .map(|weight| weight.name)
                .collect(),
        });
    };
    let cuts = cuts(graph, &producer).map_err(refuse)?;
    let kept = kept(&network.parameters()[producer.weight], producer.axis, share);
    let mut proto = network.to_proto();
    let graph_proto = proto.graph.get_or_insert_default();
    graph_proto.value_info.clear();
    for (source, Cut { axis, group }) in &cuts {
        let cut_name = match source {
            Source::Weight(at) => &graph.weights[*at].name,
            Source::Fixed(at) => &graph.fixed_names[*at],
            Source::Register(_) => continue,
        };
        let initialiser = graph_proto
            .initializer
            .iter_mut()
            .find(|initialiser| initialiser.name == *cut_name);
        let initialiser =
            initialiser.ok_or_else(|| refuse(format!("'{cut_name}' is made by a node")))?;
        take(initialiser, *axis, *group, &kept).map_err(refuse)?;
        let info = graph_proto
            .input
            .iter_mut()
            .find(|input| input.name == *cut_name);
        if let Some(pb::type_proto::Value::TensorType(declared)) = info
            .and_then(|info| info.r#type.as_mut())
            .and_then(|kind| kind.value.as_mut())
        {
            declared.shape = None;
        }
    }
    let mut cut = Network::of(proto).map_err(|error| refuse(error.to_string()))?;
    for (after, before) in cut.parameters_mut().iter_mut().zip(network.parameters()) {
        after.trained = before.trained;
    }
    Ok(cut)
}

/// A product whose output channels one weight makes.
struct Producer {
    weight: usize,
    /// The axis of the weight that counts channels.
    axis: usize,
    channels: usize,
    bias: Option<Source>,
    register: usize,
    /// The axis of the output that counts channels.
    output_axis: usize,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is no product makes no channels"
)]
fn producer(graph: &Graph, step: &Step) -> Option<Producer> {
    let Some(Some(Source::Weight(weight))) = step.inputs.get(1).copied() else {
        return None;
    };
    let register = step.outputs.first().copied().flatten()?;
    let rank = graph.registers[register].rank();
    let (axis, output_axis) = match &step.op {
        Op::Gemm { transposed, .. } => (usize::from(!transposed.1), 1),
        Op::MatMul if graph.weights[weight].shape.len() == 2 => (1, rank - 1),
        Op::Conv { groups: 1, .. } => (0, 1),
        _ => return None,
    };
    Some(Producer {
        weight,
        axis,
        channels: graph.weights[weight].shape[axis],
        bias: step.inputs.get(2).copied().flatten(),
        register,
        output_axis,
    })
}

/// Along which axis to cut, and how many indices there a channel has.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cut {
    axis: usize,
    group: usize,
}

/// A value on the channels' way: its register, the axis that counts them, and how many indices each has there.
#[derive(Clone, Copy)]
struct Flow {
    register: usize,
    cut: Cut,
}

/// What to cut for a producer's channels; an error says why they cannot be.
fn cuts(graph: &Graph, producer: &Producer) -> Result<HashMap<Source, Cut>, String> {
    let mut trail = Trail {
        graph,
        channels: producer.channels,
        cuts: HashMap::new(),
        flows: Vec::new(),
    };
    trail.cut(Source::Weight(producer.weight), producer.axis, 1)?;
    if let Some(bias) = producer.bias {
        trail.vector(bias, 1)?;
    }
    trail.flows.push(Flow {
        register: producer.register,
        cut: Cut {
            axis: producer.output_axis,
            group: 1,
        },
    });
    let mut seen = HashSet::new();
    while let Some(flow) = trail.flows.pop() {
        if flow.register == graph.result {
            return Err("they reach the output".to_owned());
        }
        for (at, step) in graph.steps.iter().enumerate() {
            if step.inputs.contains(&Some(Source::Register(flow.register)))
                && seen.insert((at, flow.register))
            {
                trail
                    .follow(step, flow)
                    .map_err(|reason| format!("at '{}' {reason}", step.node))?;
            }
        }
    }
    Ok(trail.cuts)
}

struct Trail<'a> {
    graph: &'a Graph,
    channels: usize,
    cuts: HashMap<Source, Cut>,
    flows: Vec<Flow>,
}

impl Trail<'_> {
    /// What a step does with the channels of one of its inputs.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what is not known to be right is refused"
    )]
    fn follow(&mut self, step: &Step, flow: Flow) -> Result<(), String> {
        let here = Some(Source::Register(flow.register));
        let Cut { axis, group } = flow.cut;
        let first = step.inputs.first() == Some(&here)
            && step.inputs.iter().filter(|input| **input == here).count() == 1;
        let operand = |at: usize| step.inputs.get(at).copied().flatten();
        match &step.op {
            Op::Unary(_) | Op::Power(_) if first => self.pass(step, flow.cut),
            Op::Binary(_) => {
                let other = if first { operand(1) } else { operand(0) };
                match other {
                    Some(other @ (Source::Weight(_) | Source::Fixed(_))) => {
                        self.alongside(other, flow)?;
                        self.pass(step, flow.cut)
                    }
                    Some(Source::Register(_)) | None => Err("they join another value".to_owned()),
                }
            }
            Op::BatchNorm { .. } if first && axis == 1 => {
                for at in 1..5 {
                    self.vector(operand(at).ok_or("an operand is missing")?, group)?;
                }
                self.pass(step, flow.cut)
            }
            Op::Pool { .. } if first && axis == 1 => self.pass(step, flow.cut),
            Op::Reduce { axes, .. } if first && axes.iter().all(|&reduced| reduced > axis) => {
                self.pass(step, flow.cut)
            }
            Op::Reshape if first => self.reshape(step, flow),
            Op::Gemm { transposed, .. } if first && axis == 1 && !transposed.0 => self.cut(
                operand(1).ok_or("a weight is missing")?,
                usize::from(transposed.1),
                group,
            ),
            Op::MatMul if first && axis + 1 == self.graph.registers[flow.register].rank() => {
                self.cut(operand(1).ok_or("a weight is missing")?, 0, group)
            }
            Op::Conv { groups: 1, .. } if first && axis == 1 => {
                self.cut(operand(1).ok_or("a weight is missing")?, 1, group)
            }
            _ => Err("they go into a step that is not followed".to_owned()),
        }
    }

    fn pass(&mut self, step: &Step, cut: Cut) -> Result<(), String> {
        let register = step
            .outputs
            .first()
            .copied()
            .flatten()
            .ok_or("nothing comes out")?;
        self.flows.push(Flow { register, cut });
        Ok(())
    }

    /// Same dimensions, or all behind the channels flattened into them.
    fn reshape(&mut self, step: &Step, flow: Flow) -> Result<(), String> {
        let register = step
            .outputs
            .first()
            .copied()
            .flatten()
            .ok_or("nothing comes out")?;
        let (from, to) = (
            &self.graph.registers[flow.register],
            &self.graph.registers[register],
        );
        let Cut { axis, group } = flow.cut;
        let batch_first = from.batch == Some(Batch { axis: 0, rows: 1 }) && to.batch == from.batch;
        let behind: usize = from.dims.iter().skip(axis + 1).product();
        let cut = if from.dims == to.dims {
            flow.cut
        } else if batch_first && axis == 1 && to.dims == [from.dims[0], from.dims[1] * behind] {
            Cut {
                axis,
                group: group * behind,
            }
        } else {
            return Err("they are reshaped".to_owned());
        };
        self.flows.push(Flow { register, cut });
        Ok(())
    }

    /// One number, or one group of numbers, a channel.
    fn vector(&mut self, source: Source, group: usize) -> Result<(), String> {
        let shape = self.shape(source)?;
        if shape.iter().product::<usize>() != self.channels * group
            || shape.last() != Some(&(self.channels * group))
        {
            return Err(format!(
                "an operand of {shape:?} is not one number a channel"
            ));
        }
        let axis = shape.len() - 1;
        self.cut(source, axis, group)
    }

    /// The other operand of an element-wise step: one number for all channels, or one for each.
    fn alongside(&mut self, source: Source, flow: Flow) -> Result<(), String> {
        let shape = self.shape(source)?;
        let rank = self.graph.registers[flow.register].rank();
        let Cut { axis, group } = flow.cut;
        let Some(at) = axis
            .checked_sub(rank.saturating_sub(shape.len()))
            .filter(|_| shape.len() <= rank)
        else {
            return Ok(());
        };
        if shape[at] == 1 {
            return Ok(());
        }
        self.cut(source, at, group)
    }

    fn shape(&self, source: Source) -> Result<Vec<usize>, String> {
        match source {
            Source::Weight(at) => Ok(self.graph.weights[at].shape.clone()),
            Source::Fixed(at) => Ok(self.graph.fixed[at].shape.clone()),
            Source::Register(_) => Err("an operand is computed".to_owned()),
        }
    }

    fn cut(&mut self, source: Source, axis: usize, group: usize) -> Result<(), String> {
        let shape = self.shape(source)?;
        if shape.get(axis) != Some(&(self.channels * group)) {
            return Err(format!(
                "an operand of {shape:?} does not count {} channels of {group}",
                self.channels
            ));
        }
        let uses = self
            .graph
            .steps
            .iter()
            .flat_map(|step| &step.inputs)
            .filter(|input| **input == Some(source))
            .count();
        if uses != 1 || self.cuts.insert(source, Cut { axis, group }).is_some() {
            return Err("an operand is used more than once".to_owned());
        }
        Ok(())
    }
}

/// The channels with the largest sums of absolute weights, in their order.
fn kept(parameter: &Parameter, axis: usize, share: f64) -> Vec<usize> {
    let channels = parameter.shape[axis];
    let behind: usize = parameter.shape[axis + 1..].iter().product::<usize>().max(1);
    let mut sums = vec![0.0_f64; channels];
    for (at, value) in parameter.values.iter().enumerate() {
        sums[at / behind % channels] += f64::from(value.abs());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let gone = ((channels as f64 * share).round() as usize).min(channels - 1);
    let mut order: Vec<usize> = (0..channels).collect();
    order.sort_by(|&one, &other| sums[one].total_cmp(&sums[other]));
    let mut kept = order.split_off(gone);
    kept.sort_unstable();
    kept
}

/// Leaves of a tensor the kept channels' indices along an axis.
fn take(
    initialiser: &mut pb::TensorProto,
    axis: usize,
    group: usize,
    kept: &[usize],
) -> Result<(), String> {
    let Constant {
        shape,
        numbers: Numbers::F32(numbers),
    } = tensor::read(initialiser)?
    else {
        return Err(format!("'{}' holds no floats", initialiser.name));
    };
    let behind: usize = shape[axis + 1..].iter().product::<usize>().max(1);
    let mut left = Vec::new();
    for block in numbers.chunks(shape[axis] * behind) {
        for &channel in kept {
            let from = channel * group * behind;
            left.extend_from_slice(&block[from..from + group * behind]);
        }
    }
    initialiser.dims[axis] = tensor::signed(kept.len() * group);
    tensor::write(initialiser, &left);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::make::Attribute::Ints;
    use crate::make::Builder;
    use crate::random::Random;

    /// Convolution, normalisation, rectifier, a scale of each channel, pool, convolution, mean, dense.
    fn network() -> Network {
        let mut builder = Builder::new("chain")
            .input("x", &[1, 2, 6, 6])
            .output("y", &[1, 3]);
        let mut random = Random::new(2);
        let mut weight = |builder: &mut Builder, name: &str, shape: &[usize]| {
            let numbers: Vec<f32> = (0..shape.iter().product())
                .map(|_| random.normal_f32().abs() + 0.1)
                .collect();
            builder.floats(name, shape, &numbers);
        };
        weight(&mut builder, "w0", &[6, 2, 3, 3]);
        for name in ["b0", "scale", "bias", "mean", "variance"] {
            weight(&mut builder, name, &[6]);
        }
        weight(&mut builder, "each", &[6, 1, 1]);
        weight(&mut builder, "w1", &[4, 6, 3, 3]);
        weight(&mut builder, "w2", &[4, 3]);
        builder.node(
            "Conv",
            &["x", "w0", "b0"],
            &["c0"],
            &[("pads", Ints(&[1, 1, 1, 1]))],
        );
        builder.node(
            "BatchNormalization",
            &["c0", "scale", "bias", "mean", "variance"],
            &["n0"],
            &[],
        );
        builder.node("Relu", &["n0"], &["r0"], &[]);
        builder.node("Mul", &["r0", "each"], &["m0"], &[]);
        builder.node(
            "MaxPool",
            &["m0"],
            &["p0"],
            &[("kernel_shape", Ints(&[2, 2])), ("strides", Ints(&[2, 2]))],
        );
        builder.node("Conv", &["p0", "w1"], &["c1"], &[]);
        builder.node("GlobalAveragePool", &["c1"], &["g1"], &[]);
        builder.node("Flatten", &["g1"], &["f1"], &[]);
        builder.node("MatMul", &["f1", "w2"], &["y"], &[]);
        Network::of(builder.finish()).unwrap()
    }

    #[test]
    fn a_cut_model_computes_what_the_whole_one_does_without_those_channels() {
        let network = network();
        assert_eq!(prunable(&network).len(), 2);
        let mut random = Random::new(9);
        let samples: Vec<f32> = (0..3 * 72).map(|_| random.normal_f32()).collect();
        for (name, consumer, channels) in [("w0", "w1", 6), ("w1", "w2", 4)] {
            let cut = cut_channels(&network, &[(name.to_owned(), 0.5)]).unwrap();
            let find = |name: &str| {
                network
                    .parameters()
                    .iter()
                    .position(|parameter| parameter.name == name)
                    .unwrap()
            };
            let left = kept(&network.parameters()[find(name)], 0, 0.5);
            assert_eq!(left.len(), channels / 2);
            // The whole model with what the cut channels give to the next product set to 0.
            let mut whole = network.clone();
            let parameter = &mut whole.parameters_mut()[find(consumer)];
            let axis = usize::from(consumer == "w1");
            let behind: usize = parameter.shape[axis + 1..].iter().product();
            for (at, value) in parameter.values.iter_mut().enumerate() {
                if !left.contains(&(at / behind % channels)) {
                    *value = 0.0;
                }
            }
            let (found, wanted) = (
                cut.predict(&samples).unwrap(),
                whole.predict(&samples).unwrap(),
            );
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!(
                    (found - wanted).abs() < 1e-4 * (1.0 + wanted.abs()),
                    "{found} {wanted}"
                );
            }
        }
    }
}

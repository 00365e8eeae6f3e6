//! New models: small architectures by name and size, with documented first weights.

use serde::{Deserialize, Serialize};

use crate::network::{Network, Side};
use crate::random::Random;

mod builder;
mod error;

#[cfg(test)]
pub(crate) use builder::Attribute;
pub use error::MakeError;

pub(crate) use builder::{Builder, attribute_int};

use builder::Attribute as Value;

/// Most layers of one kind.
pub const LAYERS_MAX: usize = 32;
/// Widest layer.
pub const WIDTH_MAX: usize = 16_384;
/// Most weights: they fit in the largest file that a bundle may hold.
const WEIGHTS_MAX: usize = 15 * 1024 * 1024;

/// A model that is yet to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// Name of the graph.
    pub name: String,
    /// The input; its first dimension is 1.
    pub input: Tensor,
    /// Name of the output, which has the shape `[1, outputs]`.
    pub output: String,
    /// How many numbers come out.
    pub outputs: usize,
    /// What is between.
    pub architecture: Architecture,
    /// What comes last.
    #[serde(default)]
    pub head: Last,
    /// The first weights; biases are 0.
    pub weights: Initial,
    /// Decides the first weights.
    pub seed: u64,
}

/// A tensor by name and shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
}

/// Architectures; a ReLU follows each layer but the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Architecture {
    /// Dense layers; the input is flattened.
    Mlp {
        /// Widths of the hidden layers.
        hidden: Vec<usize>,
    },
    /// Convolutions over the last axis of `[1, channels, steps]`, padded to keep its length, a mean over the steps, and a
    /// dense layer.
    #[serde(rename = "cnn_1d")]
    Cnn1d {
        /// Filters of each convolution.
        filters: Vec<usize>,
        /// Steps that a filter looks at; odd.
        kernel: usize,
    },
    /// Convolutions over `[1, channels, height, width]`, padded to keep its size, a maximum of 2 x 2 after each where both
    /// sides are even, and dense layers.
    #[serde(rename = "cnn_2d")]
    Cnn2d {
        /// Filters of each convolution.
        filters: Vec<usize>,
        /// Height and width of a filter; odd.
        kernel: usize,
        /// Widths of the hidden dense layers.
        #[serde(default)]
        hidden: Vec<usize>,
    },
    /// A gated recurrent unit over `[1, steps, fields]`, whose last state a dense layer turns into the outputs. A single field
    /// goes in twice.
    Gru {
        /// Width of the state.
        hidden: usize,
    },
}

/// What comes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Last {
    /// The dense layer: values, or logits to which the manifest's activation is applied.
    #[default]
    Dense,
    /// A sigmoid.
    Sigmoid,
    /// A softmax.
    Softmax,
}

/// First weights. `fan_in` and `fan_out` are how many numbers go into and come out of one place of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Initial {
    /// Normal, with deviation `sqrt(2 / fan_in)` (He et al., arXiv 1502.01852): for ReLU.
    He,
    /// Uniform within `sqrt(6 / (fan_in + fan_out))` (Glorot and Bengio, AISTATS 2010): for sigmoid and tanh.
    Xavier,
    /// Normal.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        deviation: f64,
    },
}

/// Makes a model.
///
/// # Errors
/// [`MakeError`] when a size is out of range or does not suit the input.
pub fn make(draft: &Draft) -> Result<Network, MakeError> {
    let shape = draft.input.shape.as_slice();
    if shape.first() != Some(&1) || shape.len() < 2 {
        return Err(MakeError::Input {
            shape: shape.to_vec(),
            wanted: "a batch of 1 and at least one more axis",
        });
    }
    shape
        .iter()
        .try_for_each(|&dim| size("dimension of the input", dim))?;
    size("number of outputs", draft.outputs)?;
    if let Initial::Normal { mean, deviation } = draft.weights
        && !(mean.is_finite() && deviation.is_finite() && deviation > 0.0)
    {
        return Err(MakeError::Normal {
            mean: mean.to_string(),
            deviation: deviation.to_string(),
        });
    }
    let builder = Builder::new(&draft.name)
        .input(&draft.input.name, shape)
        .output(&draft.output, &[1, draft.outputs]);
    let mut maker = Maker {
        builder,
        random: Random::of(draft.seed, 0),
        initial: draft.weights,
        value: draft.input.name.clone(),
        weights: 0,
    };
    let width = maker.body(&draft.architecture, shape)?;
    maker.last(width, draft)?;
    let network = Network::of(maker.builder.finish())?;
    debug_assert_eq!(
        network.output(),
        &Side {
            name: draft.output.clone(),
            shape: vec![1, draft.outputs]
        }
    );
    Ok(network)
}

struct Maker {
    builder: Builder,
    random: Random,
    initial: Initial,
    /// The value that the next layer takes in.
    value: String,
    weights: usize,
}

impl Maker {
    /// All but the last layer; the width of what comes out.
    fn body(&mut self, architecture: &Architecture, shape: &[usize]) -> Result<usize, MakeError> {
        let input = |wanted| MakeError::Input {
            shape: shape.to_vec(),
            wanted,
        };
        match architecture {
            Architecture::Mlp { hidden } => {
                if shape.len() > 2 {
                    self.flatten();
                }
                self.dense_layers(shape[1..].iter().product(), hidden)
            }
            Architecture::Cnn1d { filters, kernel } => {
                let &[_, channels, _] = shape else {
                    return Err(input("[1, channels, steps]"));
                };
                layers(filters)?;
                let mut depth = channels;
                for (at, &filters) in filters.iter().enumerate() {
                    depth = self.convolution(at, depth, filters, &[odd(*kernel)?])?;
                }
                self.node("GlobalAveragePool", "mean", &[], &[]);
                self.flatten();
                Ok(depth)
            }
            Architecture::Cnn2d {
                filters,
                kernel,
                hidden,
            } => {
                let &[_, channels, mut height, mut width] = shape else {
                    return Err(input("[1, channels, height, width]"));
                };
                layers(filters)?;
                let (mut depth, kernel) = (channels, odd(*kernel)?);
                for (at, &filters) in filters.iter().enumerate() {
                    depth = self.convolution(at, depth, filters, &[kernel, kernel])?;
                    if height % 2 == 0 && width % 2 == 0 {
                        let two = [2, 2];
                        self.node(
                            "MaxPool",
                            &format!("pool{at}"),
                            &[],
                            &[
                                ("kernel_shape", Value::Ints(&two)),
                                ("strides", Value::Ints(&two)),
                            ],
                        );
                        (height, width) = (height / 2, width / 2);
                    }
                }
                self.flatten();
                self.dense_layers(depth * height * width, hidden)
            }
            Architecture::Gru { hidden } => {
                let &[_, _, fields] = shape else {
                    return Err(input("[1, steps, fields]"));
                };
                self.gru(fields, *hidden)
            }
        }
    }

    fn dense_layers(&mut self, mut width: usize, hidden: &[usize]) -> Result<usize, MakeError> {
        if hidden.len() > LAYERS_MAX {
            return Err(MakeError::Layers {
                found: hidden.len(),
            });
        }
        for (at, &next) in hidden.iter().enumerate() {
            self.dense(&format!("dense{at}"), width, next)?;
            self.node("Relu", &format!("relu_dense{at}"), &[], &[]);
            width = next;
        }
        Ok(width)
    }

    fn dense(&mut self, name: &str, from: usize, to: usize) -> Result<(), MakeError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.weight(&weight, &[to, from], from, to)?;
        self.zeros(&bias, &[to]);
        self.node(
            "Gemm",
            name,
            &[&weight, &bias],
            &[("transB", Value::Int(1))],
        );
        Ok(())
    }

    fn convolution(
        &mut self,
        at: usize,
        channels: usize,
        filters: usize,
        kernel: &[usize],
    ) -> Result<usize, MakeError> {
        let name = format!("conv{at}");
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let area: usize = kernel.iter().product();
        let shape = [&[filters, channels], kernel].concat();
        self.weight(&weight, &shape, channels * area, filters * area)?;
        self.zeros(&bias, &[filters]);
        let signed = |size: &usize| i64::try_from(*size).unwrap_or(i64::MAX);
        let sizes: Vec<i64> = kernel.iter().map(signed).collect();
        let pads: Vec<i64> = kernel
            .iter()
            .chain(kernel)
            .map(|size| signed(&(size / 2)))
            .collect();
        self.node(
            "Conv",
            &name,
            &[&weight, &bias],
            &[
                ("kernel_shape", Value::Ints(&sizes)),
                ("pads", Value::Ints(&pads)),
            ],
        );
        self.node("Relu", &format!("relu_conv{at}"), &[], &[]);
        Ok(filters)
    }

    /// Steps first, then the last state: `[1, 1, hidden]` to `[1, hidden]`.
    fn gru(&mut self, fields: usize, hidden: usize) -> Result<usize, MakeError> {
        size("hidden width", hidden)?;
        // Tract 0.23.9 runs no GRU over a single field: it goes in twice.
        let fields = if fields == 1 {
            let field = self.value.clone();
            self.node("Concat", "twice", &[&field], &[("axis", Value::Int(2))]);
            2
        } else {
            fields
        };
        self.weight("gru.input", &[1, 3 * hidden, fields], fields, hidden)?;
        self.weight("gru.state", &[1, 3 * hidden, hidden], hidden, hidden)?;
        self.zeros("gru.bias", &[1, 6 * hidden]);
        self.node(
            "Transpose",
            "steps",
            &[],
            &[("perm", Value::Ints(&[1, 0, 2]))],
        );
        let width = i64::try_from(hidden).unwrap_or(i64::MAX);
        // The form that frameworks train, with the reset gate behind the product.
        let attributes = [
            ("hidden_size", Value::Int(width)),
            ("linear_before_reset", Value::Int(1)),
        ];
        let inputs = [self.value.as_str(), "gru.input", "gru.state", "gru.bias"];
        self.builder
            .node("GRU", &inputs, &["", "state"], &attributes);
        "state".clone_into(&mut self.value);
        self.builder.ints("state_axis", &[0]);
        self.node("Squeeze", "last", &["state_axis"], &[]);
        Ok(hidden)
    }

    fn last(&mut self, width: usize, draft: &Draft) -> Result<(), MakeError> {
        let operator = match draft.head {
            Last::Dense => return self.dense_named("out", &draft.output, width, draft.outputs),
            Last::Sigmoid => "Sigmoid",
            Last::Softmax => "Softmax",
        };
        self.dense_named("out", "logits", width, draft.outputs)?;
        self.node(operator, &draft.output, &[], &[]);
        Ok(())
    }

    /// A dense layer whose weights are called otherwise than its output.
    fn dense_named(
        &mut self,
        name: &str,
        output: &str,
        from: usize,
        to: usize,
    ) -> Result<(), MakeError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.weight(&weight, &[to, from], from, to)?;
        self.zeros(&bias, &[to]);
        self.node(
            "Gemm",
            output,
            &[&weight, &bias],
            &[("transB", Value::Int(1))],
        );
        Ok(())
    }

    fn flatten(&mut self) {
        self.node("Flatten", "flat", &[], &[("axis", Value::Int(1))]);
    }

    /// A node on the value so far, which its output becomes.
    fn node(
        &mut self,
        operator: &str,
        output: &str,
        more: &[&str],
        attributes: &[(&str, Value<'_>)],
    ) {
        let inputs = [&[self.value.as_str()], more].concat();
        self.builder.node(operator, &inputs, &[output], attributes);
        output.clone_into(&mut self.value);
    }

    fn zeros(&mut self, name: &str, shape: &[usize]) {
        self.builder
            .floats(name, shape, &vec![0.0; shape.iter().product()]);
    }

    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    fn weight(
        &mut self,
        name: &str,
        shape: &[usize],
        fan_in: usize,
        fan_out: usize,
    ) -> Result<(), MakeError> {
        shape
            .iter()
            .try_for_each(|&dim| size("width of a layer", dim))?;
        let count = shape
            .iter()
            .try_fold(1_usize, |all, &dim| all.checked_mul(dim))
            .unwrap_or(usize::MAX);
        self.weights = self.weights.saturating_add(count);
        if self.weights > WEIGHTS_MAX {
            return Err(MakeError::Weights {
                found: self.weights,
            });
        }
        let random = &mut self.random;
        let number = |_| match self.initial {
            Initial::He => random.normal() * (2.0 / fan_in as f64).sqrt(),
            Initial::Xavier => {
                (2.0 * random.unit() - 1.0) * (6.0 / (fan_in + fan_out) as f64).sqrt()
            }
            Initial::Normal { mean, deviation } => mean + deviation * random.normal(),
        };
        let numbers: Vec<f32> = (0..count).map(number).map(|number| number as f32).collect();
        self.builder.floats(name, shape, &numbers);
        Ok(())
    }
}

fn size(what: &'static str, found: usize) -> Result<(), MakeError> {
    if (1..=WIDTH_MAX).contains(&found) {
        Ok(())
    } else {
        Err(MakeError::Size { what, found })
    }
}

fn layers(filters: &[usize]) -> Result<(), MakeError> {
    if (1..=LAYERS_MAX).contains(&filters.len()) {
        Ok(())
    } else {
        Err(MakeError::Layers {
            found: filters.len(),
        })
    }
}

fn odd(kernel: usize) -> Result<usize, MakeError> {
    size("kernel", kernel)?;
    if kernel % 2 == 1 {
        Ok(kernel)
    } else {
        Err(MakeError::Even { kernel })
    }
}

"""A multilayer perceptron in numpy: small enough to read, and the same seed gives the same bytes."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
# The oldest format that has this opset: old runtimes on gateways still open it.
IR_VERSION = 8
BATCH = 64
WEIGHT_DECAY = 1e-4


@dataclass
class Recipe:
    """What may differ between trainings; `loss` is `huber` (regression) or `cross_entropy` (classes)."""

    hidden: tuple[int, ...]
    steps: int
    rate: float
    loss: str
    seed: int


class Perceptron:
    """Dense layers with ReLU between them.

    `skip`, if given, is the index of the feature that is added to the output: the network then learns the change
    since the newest reading, and its start is the persistence forecast.
    """

    def __init__(self, sizes: list[int], seed: int, skip: int | None = None):
        rng = np.random.default_rng(seed)
        self.skip = skip
        self.weights = [
            (rng.standard_normal((a, b)) * np.sqrt(2.0 / a)).astype(np.float32) for a, b in zip(sizes, sizes[1:])
        ]
        self.weights[-1] *= np.float32(0.1)
        self.biases = [np.zeros(b, dtype=np.float32) for b in sizes[1:]]

    def layers(self, x: np.ndarray) -> list[np.ndarray]:
        """The input of each layer, and last the raw output."""
        values = [x]
        for i, (w, b) in enumerate(zip(self.weights, self.biases)):
            x = x @ w + b
            if i + 1 < len(self.weights):
                x = np.maximum(x, 0.0)
            values.append(x)
        if self.skip is not None:
            values[-1] = values[-1] + values[0][:, [self.skip]]
        return values

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.layers(x)[-1]

    def gradients(self, x: np.ndarray, y: np.ndarray, loss: str) -> list[np.ndarray]:
        """Gradients of the mean loss, weights first and then biases."""
        values = self.layers(x)
        if loss == "huber":
            delta = np.clip(values[-1] - y, -1.0, 1.0)
        else:
            delta = softmax(values[-1])
            delta[np.arange(len(y)), y] -= 1.0
        delta = (delta / len(x)).astype(np.float32)
        of_weights, of_biases = [], []
        for i in reversed(range(len(self.weights))):
            of_weights.append(values[i].T @ delta + np.float32(WEIGHT_DECAY) * self.weights[i])
            of_biases.append(delta.sum(axis=0))
            if i > 0:
                delta = (delta @ self.weights[i].T) * (values[i] > 0.0)
        return of_weights[::-1] + of_biases[::-1]


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def train(x: np.ndarray, y: np.ndarray, recipe: Recipe, outputs: int, skip: int | None = None) -> Perceptron:
    """Adam with a rate that falls to zero along half a cosine, for a fixed number of steps."""
    net = Perceptron([x.shape[1], *recipe.hidden, outputs], recipe.seed, skip)
    rng = np.random.default_rng(recipe.seed + 1)
    parameters = net.weights + net.biases
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    order = np.empty(0, dtype=np.int64)
    for step in range(1, recipe.steps + 1):
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(len(x))])
        batch, order = order[:BATCH], order[BATCH:]
        rate = recipe.rate * 0.5 * (1.0 + np.cos(np.pi * step / recipe.steps))
        scale = np.float32(rate * np.sqrt(1.0 - 0.999**step) / (1.0 - 0.9**step))
        for p, m, v, g in zip(parameters, first, second, net.gradients(x[batch], y[batch], recipe.loss)):
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            p -= scale * m / (np.sqrt(v) + np.float32(1e-8))
    return net


def to_onnx(net: Perceptron, name: str, tensor_in: str, tensor_out: str) -> bytes:
    """One Gemm a layer, Relu between, batch 1."""
    nodes, tensors = [], []
    value = tensor_in
    last = len(net.weights) - 1
    for i, (w, b) in enumerate(zip(net.weights, net.biases)):
        tensors += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        out = tensor_out if i == last and net.skip is None else f"dense{i}"
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [out], name=f"gemm{i}"))
        value = out
        if i < last:
            nodes.append(helper.make_node("Relu", [value], [f"relu{i}"], name=f"relu{i}"))
            value = f"relu{i}"
    if net.skip is not None:
        tensors.append(numpy_helper.from_array(np.array([net.skip], dtype=np.int64), "newest_index"))
        nodes.append(helper.make_node("Gather", [tensor_in, "newest_index"], ["newest"], name="newest", axis=1))
        nodes.append(helper.make_node("Add", [value, "newest"], [tensor_out], name="add_newest"))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(tensor_in, TensorProto.FLOAT, [1, net.weights[0].shape[0]])],
        [helper.make_tensor_value_info(tensor_out, TensorProto.FLOAT, [1, net.weights[-1].shape[1]])],
        tensors,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lamppost-zoo",
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)

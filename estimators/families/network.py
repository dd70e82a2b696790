"""A multilayer perceptron after RealMLP-TD-S (Holzmüller, Grinsztajn, Steinwart, 2024, arXiv 2407.04491), trained with torch.

Neural tangent parametrisation, a learned scale on every input, a zero last layer at the start, the coslog4 schedule. What
remains after the fit is a list of numpy matrices; torch is needed for training only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..encoder import View
from ..family import Facts, Family, Params
from ..hardware import Hardware
from ..narrow import LEAST, rounded
from ..space import Choice, Float, Int, Space, Value
from .linear import sigmoid, softmax
from .neighbours import spread_rows

if TYPE_CHECKING:
    from ..graph import Graph

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
SCALE_RATE, BIAS_RATE = 6.0, 0.1
"""Learning rates of the input scales and of the biases, relative to the weights' (RealMLP-TD-S, arXiv 2407.04491)."""
SGD_RATE = 10.0
"""Plain SGD's learning rate relative to Adam's, under this parametrisation."""
COUPLED = 0.01
"""A decay inside the gradient (adam, sgd), relative to the decoupled one (adamw): gradients are that small here."""
INNER_SHARE, INNER_ROWS = 0.1, 10_000
"""The inner slice for early stopping: this share of the training rows, at most so many."""
BLOCK_ROWS = 8_192


class Network(Family):
    """Multilayer perceptron after RealMLP-TD-S (Holzmüller et al. 2024, arXiv 2407.04491); early stopping keeps the weights of the epoch best on an inner slice."""

    name: ClassVar[str] = "network"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    needs: ClassVar[str | None] = "torch"
    sparse: ClassVar[bool] = False
    reduces: ClassVar[bool] = True
    # a second thread made an epoch 3 to 20 times slower on two busy cores (OpenMP barriers) and not faster on idle ones
    parallel: ClassVar[bool] = False
    bagged: ClassVar[bool] = False
    order: ClassVar[int] = 80
    iterations: ClassVar[str | None] = "epochs"
    seconds_per_unit: ClassVar[float] = 3e-11

    def views(self, facts: Facts) -> Sequence[View]:
        onehot = View(numeric="scaled", categories="onehot", max_onehot=64)
        return (onehot, View(numeric="scaled", categories="target")) if facts.categorical else (onehot,)

    def space(self, facts: Facts) -> Space:
        smoothing: Space = {} if facts.task == "regression" else {"label_smoothing": Float(0.0, 0.2)}
        return {
            "layers": Int(1, 4),
            "width": Choice((32, 64, 128, 256, 384, 512)),
            "activation": Choice(("relu", "selu", "mish")),
            "optimizer": Choice(("adam", "adamw", "sgd")),
            "learning_rate": Float(0.005, 0.3, log=True),
            "weight_decay": Float(1e-5, 0.1, log=True),
            "dropout": Float(0.0, 0.5),
            "epochs": Int(8, 256, log=True),
            "early_stopping": Choice((False, True)),
            **smoothing,
        }

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        regression = facts.task == "regression"
        base: dict[str, Value] = {
            "layers": 1,
            "width": 64,
            "activation": "relu",
            "optimizer": "adam",
            "learning_rate": 0.07 if regression else 0.04,
            "weight_decay": 0.01,
            "dropout": 0.0,
            "epochs": 30,
            "early_stopping": True,
        }
        if not regression:
            base["label_smoothing"] = 0.0
        td = {
            **base,
            "layers": 3,
            "width": 256,
            "activation": "mish" if regression else "selu",
            "optimizer": "adamw",
            "weight_decay": 0.02,
        }
        return [base, {**base, "layers": 2, "width": 32}, {**td, "epochs": 32}, {**td, "epochs": 256}]

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        width, layers = int(params.get("width", 256)), int(params.get("layers", 3))
        epochs, d = float(params.get("epochs", 32)), max(1, columns)
        cells = d * width + (layers - 1) * width * width + width * max(1, classes) + 40 * layers * width
        steps = epochs * math.ceil(rows / batch_size(rows))
        weights = d * width + (layers - 1) * width * width
        return {"1": 1e6, "steps": steps * (1.3e7 + 20.0 * weights), "epochs n d": 3.0 * epochs * rows * cells}

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> NetworkModel:
        return NetworkModel(Recipe.of(params, task), task, hardware, seed)

    def refit_params(self, params: Params, model: NetworkModel, rows_ratio: float) -> dict[str, Value]:
        if not params.get("early_stopping", False):
            return dict(params)
        epochs = min(float(params["epochs"]), max(1.0, model.epochs_ * rows_ratio**0.3))
        return {**params, "epochs": round(epochs), "early_stopping": False}

    def narrowed(self, model: NetworkModel, dtype: str) -> NetworkModel | None:
        if max(weights.size for weights, _ in model.layers) < LEAST:
            return None
        narrow = copy.copy(model)
        narrow.layers = [(rounded(w, dtype) if w.size >= LEAST else w, bias) for w, bias in model.layers]
        return narrow

    def to_onnx(self, model: NetworkModel, graph: Graph, x: str) -> str:
        for weights, bias in model.layers[:-1]:
            x = graph.node("Gemm", x, graph.constant(weights), graph.constant(bias))
            x = activation_to_onnx(model.recipe.activation, graph, x)
        x = graph.node("Gemm", x, graph.constant(model.layers[-1][0]), graph.constant(model.layers[-1][1]))
        if model.task == "regression":
            return x
        return graph.node("Sigmoid", x) if model.task == "binary" else graph.node("Softmax", x, axis=1)


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one training run; rates and decays are those of the schedules' peaks."""

    layers: int
    width: int
    activation: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    dropout: float
    epochs: int
    early_stopping: bool
    label_smoothing: float

    @classmethod
    def of(cls, params: Params, task: str) -> Recipe:
        return cls(
            layers=int(params.get("layers", 3)),
            width=int(params.get("width", 256)),
            activation=str(params.get("activation", "mish" if task == "regression" else "selu")),
            optimizer=str(params.get("optimizer", "adamw")),
            learning_rate=float(params.get("learning_rate", 0.07 if task == "regression" else 0.04)),
            weight_decay=float(params.get("weight_decay", 0.0)),
            dropout=float(params.get("dropout", 0.0)),
            epochs=int(params.get("epochs", 32)),
            early_stopping=bool(params.get("early_stopping", False)),
            label_smoothing=float(params.get("label_smoothing", 0.0)),
        )


def batch_size(rows: int) -> int:
    """Rows a step: 32 to 4,096, a power of two near rows / 128, so that an epoch is some hundred steps on any table."""
    return int(2 ** round(math.log2(wanted_batch(rows))))


def wanted_batch(rows: int) -> float:
    """`batch_size` before it is a power of two."""
    return min(4096.0, max(32.0, rows / 128))


def coslog4(t: float) -> float:
    """The learning rate's factor at the share t of training: four cosine waves, ever longer, from 0 to 0."""
    return 0.5 * (1.0 - math.cos(2.0 * math.pi * math.log2(1.0 + 15.0 * t)))


def flat_cos(t: float) -> float:
    """The factor of dropout and weight decay: 1 in the first half, then a cosine to 0."""
    return 1.0 if t < 0.5 else 0.5 * (1.0 + math.cos(math.pi * (2.0 * t - 1.0)))


def activation_to_onnx(name: str, graph: Graph, x: str) -> str:
    """Mish is written by a sigmoid, of which onnxruntime has a vectorised one: its Softplus is ten times slower."""
    if name == "relu":
        return graph.node("Relu", x)
    if name == "selu":
        return graph.node("Selu", x, alpha=SELU_ALPHA, gamma=SELU_SCALE)
    one = graph.constant(np.ones(1, np.float32))
    off = graph.node("Sigmoid", graph.node("Neg", x))
    squared = graph.node("Mul", off, off)
    ratio = graph.node("Div", graph.node("Sub", one, squared), graph.node("Add", one, squared))
    return graph.node("Mul", x, ratio)


def activate(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """relu, selu, or mish = x tanh(log(1 + e^x)) = x (1 - s^2) / (1 + s^2) with s = sigmoid(-x)."""
    if name == "relu":
        return np.maximum(x, np.float32(0))
    if name == "selu":
        below = np.float32(SELU_ALPHA) * (np.exp(np.minimum(x, np.float32(0))) - np.float32(1))
        return np.asarray(np.float32(SELU_SCALE) * np.where(x > 0, x, below), np.float32)
    squared = np.square(sigmoid(-x))
    return np.asarray(x * ((1 - squared) / (1 + squared)), np.float32)


@dataclass(frozen=True)
class Goal:
    """What a network is trained towards: `target` (n,) class codes, or values less their `level`, by their `spread`; weights
    of mean 1, None where all are alike; and how many `outputs` it has.
    """

    target: NDArray[Any]
    weights: NDArray[np.float32] | None
    outputs: int
    level: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, y: NDArray[Any], task: str, sample_weight: NDArray[np.float64] | None) -> Goal:
        weights = None
        if sample_weight is not None and np.ptp(sample_weight) > 0.0:
            weights = (sample_weight / sample_weight.mean()).astype(np.float32)
        if task != "regression":
            return cls(np.asarray(y).astype(np.int64), weights, 2 if task == "binary" else int(y.max()) + 1)
        level = float(np.average(y, weights=sample_weight))
        spread = float(np.sqrt(np.average((y - level) ** 2, weights=sample_weight))) or 1.0
        return cls(((y - level) / spread).astype(np.float32), weights, 1, level, spread)


class NetworkModel:
    """`layers` is a list of (weights (in, out), bias (out,)) in float32, scales and normalisations folded in."""

    layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
    epochs_: int
    """The epoch whose weights were kept, counted from 1."""

    def __init__(self, recipe: Recipe, task: str, hardware: Hardware, seed: int = 0) -> None:
        self.recipe = recipe
        self.task = task
        self.hardware = hardware
        self.seed = seed

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> NetworkModel:
        """Trains on X (n, d) float32. Raises FloatingPointError when the loss is not finite: a learning rate too large."""
        goal = Goal.of(y, self.task, sample_weight)
        dense = np.ascontiguousarray(X if isinstance(X, np.ndarray) else X.toarray(), np.float32)
        with limited_threads(self.hardware.threads):
            training = Training(self.recipe, self.hardware.device, self.seed, dense.shape[1], goal.outputs)
            self.epochs_ = training.run(dense, goal.target, goal.weights)
            self.layers = folded(training.arrays(), self.task, goal.level, goal.spread)
        return self

    def _scores(self, X: Any) -> NDArray[np.float32]:
        parts = []
        for i in range(0, X.shape[0], BLOCK_ROWS):
            h = X[i : i + BLOCK_ROWS]
            h = np.asarray(h if isinstance(h, np.ndarray) else h.toarray(), np.float32)
            for weights, bias in self.layers[:-1]:
                h = activate(self.recipe.activation, h @ weights + bias)
            parts.append(h @ self.layers[-1][0] + self.layers[-1][1])
        return np.concatenate(parts) if parts else np.empty((0, len(self.layers[-1][1])), np.float32)

    def predict(self, X: Any) -> NDArray[np.float32]:
        return self._scores(X)[:, 0]

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        scores = self._scores(X)
        if self.task != "binary":
            return softmax(scores)
        odds = sigmoid(scores)
        return np.hstack([1 - odds, odds])


def folded(
    arrays: list[NDArray[np.float64]], task: str, level: float, spread: float
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Layers from [scale, weights, bias, weights, bias, ...]: scales, 1/sqrt(in) and the target's own scale folded in.

    A binary network's two scores become their difference, the log odds of the second class.
    """
    scale, layers = arrays[0], []
    for weights, bias in zip(arrays[1::2], arrays[2::2], strict=True):
        layers.append((weights / math.sqrt(len(weights)), bias))
    layers[0] = (scale[:, None] * layers[0][0], layers[0][1])
    weights, bias = layers[-1]
    if task == "regression":
        layers[-1] = (weights * spread, bias * spread + level)
    elif task == "binary":
        layers[-1] = (weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1])
    return [(np.ascontiguousarray(w, np.float32), np.asarray(b, np.float32)) for w, b in layers]


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """torch's thread count for the time of a fit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Training:
    """One training run. All parameters live in one flat vector, of which the layers' tensors are views.

    So an optimizer's step is a handful of operations on one vector, whatever the number of layers: at batches of 256 rows
    that is most of the time of a small network, and torch.optim (1.8 s to import) is not needed.
    """

    def __init__(self, recipe: Recipe, device: str, seed: int, inputs: int, outputs: int) -> None:
        import torch

        self.recipe, self.device = recipe, device
        self.random = torch.Generator(device=device).manual_seed(seed)
        sizes = [inputs, *([recipe.width] * recipe.layers), outputs]
        shapes: list[tuple[int, ...]] = [(inputs,)]
        for before, after in pairwise(sizes):
            shapes += [(before, after), (after,)]
        count = sum(math.prod(shape) for shape in shapes)
        self.flat, self.gradient = (torch.zeros(count, device=device) for _ in range(2))
        self.rates, self.decays = torch.ones(count, device=device), torch.zeros(count, device=device)
        self.first, self.second = torch.zeros(count, device=device), torch.zeros(count, device=device)
        self.parameters: list[Any] = []
        start = 0
        for position, shape in enumerate(shapes):
            part = slice(start, start + math.prod(shape))
            start = part.stop
            if position == 0:
                self.flat[part], self.rates[part] = 1.0, SCALE_RATE
            else:
                if position < len(shapes) - 2:  # all but the last layer, which starts at zero
                    self.flat[part] = torch.randn(part.stop - part.start, generator=self.random, device=device)
                self.rates[part] = 1.0 if len(shape) == 2 else BIAS_RATE
                self.decays[part] = 1.0 if len(shape) == 2 else 0.0
            parameter = self.flat[part].view(shape).requires_grad_()
            parameter.grad = self.gradient[part].view(shape)
            self.parameters.append(parameter)
        self.steps = 0

    def arrays(self) -> list[NDArray[np.float64]]:
        return [p.detach().cpu().numpy().astype(np.float64) for p in self.parameters]

    def run(self, X: NDArray[np.float32], y: NDArray[Any], weights: NDArray[np.float32] | None) -> int:
        """Trains for the recipe's epochs or until the inner slice stops improving; returns the epoch kept."""
        import torch

        inner = np.empty(0, np.int64)
        if self.recipe.early_stopping and len(y) >= 50:
            inner = spread_rows(y, min(INNER_ROWS, round(INNER_SHARE * len(y))), self.random.initial_seed() % 2**32)
        data = tuple(None if a is None else torch.from_numpy(np.array(a)).to(self.device) for a in (X, y, weights))
        held = torch.from_numpy(inner).to(self.device)
        kept_rows = torch.from_numpy(np.setdiff1d(np.arange(len(y)), inner)).to(self.device)
        best, best_epoch, best_state = math.inf, self.recipe.epochs, None
        patience = max(10, self.recipe.epochs // 4)
        for epoch in range(1, self.recipe.epochs + 1):
            loss = self.epoch(epoch, data, kept_rows)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the network's loss is not finite in epoch {epoch}: lower its learning_rate ({self.recipe.learning_rate:g})"
                )
            if len(inner):
                score = self.evaluate(data, held)
                if score < best:
                    best, best_epoch, best_state = score, epoch, self.flat.clone()
                elif epoch - best_epoch >= patience:
                    break
        if best_state is not None:
            with torch.no_grad():
                self.flat.copy_(best_state)
        return best_epoch

    def epoch(self, number: int, data: tuple[Any, ...], rows: Any) -> float:
        """One pass over the rows in a random order; the mean loss of its last step."""
        import torch

        size = min(batch_size(len(rows)), len(rows))
        order = rows[torch.randperm(len(rows), generator=self.random, device=self.device)]
        per_epoch = len(rows) // size
        loss = None
        for step in range(per_epoch):  # the remainder waits for another epoch's order
            t = (number - 1 + step / per_epoch) / self.recipe.epochs
            index = order[step * size : (step + 1) * size]
            X, y, weights = (None if part is None else part[index] for part in data)
            loss = self.loss(
                self.forward(X, self.recipe.dropout * flat_cos(t)), y, weights, self.recipe.label_smoothing
            )
            self.gradient.zero_()
            loss.backward()
            self.step(self.recipe.learning_rate * coslog4(t), self.recipe.weight_decay * flat_cos(t))
        return math.nan if loss is None else float(loss.detach())

    def forward(self, x: Any, dropout: float = 0.0) -> Any:
        import torch
        from torch.nn import functional

        act = {"relu": torch.relu, "selu": torch.selu, "mish": functional.mish}[self.recipe.activation]
        scale, *layers = self.parameters
        h = x * scale
        for position in range(0, len(layers), 2):
            weights, bias = layers[position], layers[position + 1]
            h = torch.addmm(bias, h, weights, alpha=1.0 / math.sqrt(len(weights)))
            if position < len(layers) - 2:
                h = act(h)
                if dropout > 0.0:
                    h = h * torch.empty_like(h).bernoulli_(1.0 - dropout, generator=self.random).div_(1.0 - dropout)
        return h

    def loss(self, scores: Any, y: Any, weights: Any, smoothing: float) -> Any:
        """Weighted mean squared error of the standardised target, or cross entropy."""
        from torch.nn import functional

        if scores.shape[1] == 1:
            losses = (scores[:, 0] - y) ** 2
        else:
            losses = functional.cross_entropy(scores, y, reduction="none", label_smoothing=smoothing)
        return (losses if weights is None else losses * weights).mean()

    def evaluate(self, data: tuple[Any, ...], rows: Any) -> float:
        import torch

        with torch.no_grad():
            X, y, weights = (None if part is None else part[rows] for part in data)
            return float(self.loss(self.forward(X), y, weights, 0.0))

    def step(self, rate: float, decay: float) -> None:
        """One step of Adam (beta2 .95), AdamW (decoupled decay of the weights) or SGD with Nesterov momentum .9."""
        import torch

        with torch.no_grad():
            gradient = self.gradient
            if self.recipe.optimizer == "adamw":
                if decay > 0.0 and rate > 0.0:
                    self.flat.addcmul_(self.flat, self.decays, value=-rate * decay)
            elif decay > 0.0:
                gradient.addcmul_(self.flat, self.decays, value=COUPLED * decay)
            self.steps += 1
            if self.recipe.optimizer == "sgd":
                gradient.mul_(min(1.0, 1.0 / (float(gradient.norm()) + 1e-12)))
                self.first.mul_(0.9).add_(gradient)
                self.flat.addcmul_(gradient.add_(self.first, alpha=0.9), self.rates, value=-rate * SGD_RATE)
                return
            self.first.mul_(0.9).add_(gradient, alpha=0.1)
            self.second.mul_(0.95).addcmul_(gradient, gradient, value=0.05)
            root = (self.second / (1.0 - 0.95**self.steps)).sqrt_().add_(1e-8)
            move = (self.first * self.rates).div_(root)
            self.flat.add_(move, alpha=-rate / (1.0 - 0.9**self.steps))

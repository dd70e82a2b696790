"""TabM-mini (Gorishniy, Kotelnikov and Babenko, ICLR 2025, arXiv 2410.24210): k networks that share all but their first scaling and their heads.

The network, its piecewise-linear embeddings and their initialisation are the authors' packages `tabm` and
`rtdl_num_embeddings`; torch trains it. What remains after the fit is a list of numpy matrices.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..encoder import View
from ..family import Facts, Family, Params
from ..hardware import Hardware
from ..piecewise import Bins, Floats, edges_of, floats, folded_embedding
from ..space import Choice, Float, Int, Space, Value
from .linear import sigmoid, softmax
from .neighbours import spread_rows
from .network import INNER_ROWS, INNER_SHARE, Goal, batch_size, flat_cos, limited_threads, wanted_batch

if TYPE_CHECKING:
    from ..graph import Graph

PACKAGES = ("tabm", "rtdl_num_embeddings")
MOST_EMBEDDED = 60
"""From more columns on none is embedded by the starts: what makes the embeddings is a matrix of columns times columns."""
HEAD_CELLS = 2**18
"""The k heads are one matrix, zero outside its blocks, up to so many cells; of many classes and members each is its own."""
BLOCK_CELLS = 8_000_000
"""Hidden values held at a time when predicting."""
CLIP = 1.0
"""The largest norm of a gradient (TabArena's setting of TabM)."""


class TabM(Family):
    """TabM-mini with piecewise-linear embeddings (Gorishniy et al., ICLR 2025, arXiv 2410.24210); early stopping keeps the weights of the epoch best on an inner slice."""

    name: ClassVar[str] = "tabm"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    needs: ClassVar[str | None] = "torch"
    optional: ClassVar[bool] = True
    sparse: ClassVar[bool] = False
    reduces: ClassVar[bool] = True
    bagged: ClassVar[bool] = False
    order: ClassVar[int] = 90
    iterations: ClassVar[str | None] = "epochs"
    seconds_per_unit: ClassVar[float] = 2e-11

    def available(self) -> bool:
        return super().available() and all(importlib.util.find_spec(name) is not None for name in PACKAGES)

    def views(self, facts: Facts) -> Sequence[View]:
        onehot = View(numeric="scaled", categories="onehot", max_onehot=64)
        return (onehot, View(numeric="scaled", categories="target")) if facts.categorical else (onehot,)

    def space(self, facts: Facts) -> Space:
        """TabArena's ranges, widened to small and fast models; `n_bins` 0 feeds the numbers as they are."""
        return {
            "k": Choice((4, 8, 16, 32)),
            "n_blocks": Int(1, 4),
            "d_block": Choice((32, 64, 128, 256, 512)),
            "n_bins": Choice((0, 8, 16, 32, 48)),
            "d_embedding": Choice((4, 8, 16)),
            "dropout": Float(0.0, 0.5),
            "learning_rate": Float(3e-4, 0.01, log=True),
            "weight_decay": Float(1e-5, 0.1, log=True),
            "epochs": Int(4, 256, log=True),
            "early_stopping": Choice((False, True)),
        }

    def starts(self, facts: Facts) -> Sequence[dict[str, Value]]:
        """Two that two cores train in minutes, and TabArena's default but for its width; a short budget cuts their epochs. The
        smallest is for regression alone: of classes an ordinary network says more in less time.

        The rates of the smaller ones are what few epochs need (measured on five tables); many columns go in as they are.
        """
        default: dict[str, Value] = {
            "k": 32,
            "n_blocks": 2,
            "d_block": 256,
            "n_bins": 48,
            "d_embedding": 16,
            "dropout": 0.1,
            "learning_rate": 0.002,
            "weight_decay": 3e-4,
            "epochs": 64,
            "early_stopping": True,
        }
        small: dict[str, Value] = {
            "k": 8,
            "d_block": 64,
            "n_bins": 16,
            "d_embedding": 8,
            "learning_rate": 0.01,
            "epochs": 32,
        }
        middle: dict[str, Value] = {"k": 16, "d_block": 128, "n_bins": 32, "learning_rate": 0.005, "epochs": 32}
        sizes: list[dict[str, Value]] = [small, middle, {}] if facts.task == "regression" else [middle, {}]
        plain: dict[str, Value] = {"n_bins": 0} if facts.columns > MOST_EMBEDDED else {}
        return [self.adapted({**default, **own, **plain}, facts) for own in sizes]

    def cost(self, params: Params, rows: int, columns: int, classes: int) -> dict[str, float]:
        k, width, blocks = int(params.get("k", 32)), int(params.get("d_block", 128)), int(params.get("n_blocks", 2))
        bins = int(params.get("n_bins", 48))
        inputs = max(1, columns) * (int(params.get("d_embedding", 16)) if bins else 1)
        cells = k * (
            inputs * width + (blocks - 1) * width**2 + width * max(1, classes) + 60 * (inputs + blocks * width)
        )
        cells += max(1, columns) * bins * int(params.get("d_embedding", 16))
        epochs = float(params.get("epochs", 64))
        steps = epochs * math.ceil(rows / batch_size(rows))
        return {"1": 1e6, "steps": 3e7 * steps, "epochs n d": 3.0 * epochs * rows * cells}

    copies: ClassVar[float] = 5.0
    built_bytes: ClassVar[float | None] = 40.0
    """Ten float32 of each activation: kept for the gradient, their gradients, dropout's and the optimizer's own."""

    def built(self, params: Params, rows: int, columns: int) -> float:
        """The activations of a step."""
        k, width, blocks = int(params.get("k", 32)), int(params.get("d_block", 128)), int(params.get("n_blocks", 2))
        inputs = max(1, columns) * (int(params.get("d_embedding", 16)) if int(params.get("n_bins", 48)) else 1)
        return wanted_batch(rows) * k * (inputs + blocks * width)

    def build(
        self, params: Params, task: str, hardware: Hardware, seed: int, categorical: Sequence[int] = ()
    ) -> TabMModel:
        return TabMModel(Recipe.of(params), task, hardware, seed)

    def refit_params(self, params: Params, model: TabMModel, rows_ratio: float) -> dict[str, Value]:
        if not params.get("early_stopping", False):
            return dict(params)
        epochs = min(float(params["epochs"]), max(4.0, model.epochs_ * rows_ratio**0.3))
        return {**params, "epochs": round(epochs), "early_stopping": False}

    def to_onnx(self, model: TabMModel, graph: Graph, x: str) -> str:
        net = model.net
        h = net.inputs_to_onnx(graph, x)
        h = graph.node("Tile", h, graph.constant(np.array([1, net.k])))
        h = graph.node("Mul", h, graph.constant(net.scaling.reshape(-1)))
        h = graph.node("Reshape", h, graph.constant(np.array([-1, net.scaling.shape[1]])))
        for weights, bias in net.blocks:
            h = graph.node("Relu", graph.node("Gemm", h, graph.constant(weights), graph.constant(bias)))
        width, outputs = net.heads.shape[1:]
        h = graph.node("Reshape", h, graph.constant(np.array([-1, net.k * width])))
        if model.task == "regression":
            mean = net.heads[:, :, 0].reshape(-1, 1)
            return graph.node("Gemm", h, graph.constant(mean), graph.constant(net.offsets.sum(axis=0)))
        if net.k**2 * width * outputs <= HEAD_CELLS:
            scores = graph.node(
                "Gemm", h, graph.constant(_diagonal(net.heads)), graph.constant(net.offsets.reshape(-1))
            )
            scores = graph.node("Reshape", scores, graph.constant(np.array([-1, net.k, outputs])))
        else:
            parts = [self._head_to_onnx(net, graph, h, member) for member in range(net.k)]
            scores = graph.node("Concat", *parts, axis=1)
        if model.task == "binary":
            odds = graph.node("Squeeze", graph.node("Sigmoid", scores), graph.constant(np.array([2])))
            return graph.node("MatMul", odds, graph.constant(np.full((net.k, 1), 1 / net.k)))
        chances = graph.node(
            "Reshape", graph.node("Softmax", scores, axis=2), graph.constant(np.array([-1, net.k * outputs]))
        )
        return graph.node("MatMul", chances, graph.constant(np.tile(np.eye(outputs) / net.k, (net.k, 1))))

    def _head_to_onnx(self, net: Net, graph: Graph, h: str, member: int) -> str:
        """(n, 1, outputs) scores of one member, from all members' last hidden values side by side."""
        width = net.heads.shape[1]
        places = np.arange(member * width, (member + 1) * width)
        own = graph.node("Gather", h, graph.constant(places), axis=1)
        scores = graph.node("Gemm", own, graph.constant(net.heads[member]), graph.constant(net.offsets[member]))
        return graph.node("Unsqueeze", scores, graph.constant(np.array([1])))


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one training run, by the names of the authors' package."""

    k: int
    n_blocks: int
    d_block: int
    n_bins: int
    d_embedding: int
    dropout: float
    learning_rate: float
    weight_decay: float
    epochs: int
    early_stopping: bool

    @classmethod
    def of(cls, params: Params) -> Recipe:
        return cls(
            k=int(params.get("k", 32)),
            n_blocks=int(params.get("n_blocks", 2)),
            d_block=int(params.get("d_block", 128)),
            n_bins=int(params.get("n_bins", 48)),
            d_embedding=int(params.get("d_embedding", 16)),
            dropout=float(params.get("dropout", 0.1)),
            learning_rate=float(params.get("learning_rate", 0.002)),
            weight_decay=float(params.get("weight_decay", 3e-4)),
            epochs=int(params.get("epochs", 64)),
            early_stopping=bool(params.get("early_stopping", False)),
        )


@dataclass(frozen=True)
class Net:
    """The trained weights as they predict, float32.

    `bins` embed some columns, the `plain` ones go in as they are. `scaling` (k, inputs) is each member's own, `blocks` are
    shared, `heads` (k, width, outputs) and `offsets` (k, outputs) the members' own again: of a regression divided by k, of
    a binary task the log odds.
    """

    bins: Bins | None
    plain: NDArray[np.int64]
    scaling: Floats
    blocks: list[tuple[Floats, Floats]]
    heads: Floats
    offsets: Floats

    @property
    def k(self) -> int:
        return len(self.scaling)

    def inputs(self, X: Floats) -> Floats:
        """(n, inputs): the embeddings, then the plain columns."""
        return X[:, self.plain] if self.bins is None else np.hstack([self.bins(X), X[:, self.plain]])

    def inputs_to_onnx(self, graph: Graph, x: str) -> str:
        embedded = [] if self.bins is None else [self.bins.to_onnx(graph, x)]
        plain = [graph.node("Gather", x, graph.constant(self.plain), axis=1)] if len(self.plain) else []
        parts = embedded + plain
        return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)

    def scores(self, X: Floats) -> Floats:
        """(n, k, outputs) what each member says."""
        h = self.inputs(X)
        h = (h[:, None, :] * self.scaling).reshape(-1, h.shape[1])
        for weights, bias in self.blocks:
            h = np.maximum(h @ weights + bias, np.float32(0))
        members = h.reshape(len(X), self.k, -1).transpose(1, 0, 2)
        return np.asarray((members @ self.heads).transpose(1, 0, 2) + self.offsets, np.float32)


class TabMModel:
    """`net` holds what predicts, scales of the target folded in."""

    net: Net
    epochs_: int
    """The epoch whose weights were kept, counted from 1."""

    def __init__(self, recipe: Recipe, task: str, hardware: Hardware, seed: int = 0) -> None:
        self.recipe = recipe
        self.task = task
        self.hardware = hardware
        self.seed = seed

    def fit(self, X: Any, y: NDArray[Any], sample_weight: NDArray[np.float64] | None = None) -> TabMModel:
        """Trains on X (n, d) float32. Raises FloatingPointError when the loss is not finite: a learning rate too large."""
        import torch

        goal = Goal.of(y, self.task, sample_weight)
        dense = np.ascontiguousarray(X if isinstance(X, np.ndarray) else X.toarray(), np.float32)
        # the packages draw their first weights, and torch its dropout, from the global generator
        with limited_threads(self.hardware.threads), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            training = Training(self.recipe, self.hardware.device, dense, goal.outputs)
            self.epochs_ = training.run(dense, goal.target, goal.weights, self.seed)
            self.net = training.net(self.task, goal.level, goal.spread)
        return self

    def _scores(self, X: Any) -> Floats:
        net = self.net
        step = max(1, BLOCK_CELLS // (net.k * max(net.scaling.shape[1], net.heads.shape[1])))
        parts = [np.empty((0, net.k, net.heads.shape[2]), np.float32)]
        for i in range(0, X.shape[0], step):
            block = X[i : i + step]
            parts.append(
                net.scores(np.asarray(block if isinstance(block, np.ndarray) else block.toarray(), np.float32))
            )
        return np.concatenate(parts)

    def predict(self, X: Any) -> Floats:
        return np.asarray(self._scores(X)[:, :, 0].sum(axis=1), np.float32)

    def predict_proba(self, X: Any) -> Floats:
        """The mean of the members' probabilities, as TabM predicts."""
        scores = self._scores(X)
        if self.task != "binary":
            n, k, outputs = scores.shape
            return np.asarray(softmax(scores.reshape(n * k, outputs)).reshape(n, k, outputs).mean(axis=1), np.float32)
        odds = sigmoid(scores[:, :, 0]).mean(axis=1, keepdims=True)
        return np.asarray(np.hstack([1 - odds, odds]), np.float32)


class Training:
    """One training run. All parameters live in one flat vector, of which the package's tensors are views.

    So a step of AdamW is a handful of operations on one vector, and torch.optim (1.8 s to import) is not needed.
    """

    def __init__(self, recipe: Recipe, device: str, X: Floats, outputs: int) -> None:
        import torch

        tabm: Any = import_module("tabm")  # by its name: this file has the same
        self.recipe, self.device = recipe, device
        self.bins, self.embedded = edges_of(X, recipe.n_bins)
        self.plain = np.setdiff1d(np.arange(X.shape[1]), self.embedded)
        self.embedding: Any = None
        widths = [1] * len(self.plain)
        if len(self.embedded):
            from rtdl_num_embeddings import PiecewiseLinearEmbeddings

            self.embedding = PiecewiseLinearEmbeddings(self.bins, recipe.d_embedding, activation=False, version="B")
            widths = [recipe.d_embedding] * len(self.embedded) + widths
        self.backbone = tabm.make_tabm_backbone(
            d_in=sum(widths),
            n_blocks=recipe.n_blocks,
            d_block=recipe.d_block,
            dropout=recipe.dropout,
            k=recipe.k,
            arch_type="tabm-mini",
            start_scaling_init="normal" if len(self.embedded) else "random-signs",
            start_scaling_init_chunks=widths,
        )
        self.output = tabm.LinearEnsemble(recipe.d_block, outputs, k=recipe.k)
        parts = [part for part in (self.embedding, self.backbone, self.output) if part is not None]
        self.modules = torch.nn.ModuleList(parts).to(device)
        parameters = list(self.modules.parameters())
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradient, self.first, self.second = (torch.zeros_like(self.flat) for _ in range(3))
        start = 0
        for p in parameters:
            part = slice(start, start + p.numel())
            start = part.stop
            p.data, p.grad = self.flat[part].view_as(p), self.gradient[part].view_as(p)
        self.steps = 0

    def run(self, X: Floats, y: NDArray[Any], weights: Floats | None, seed: int) -> int:
        """Trains for the recipe's epochs or until the inner slice stops improving; returns the epoch kept."""
        import torch

        inner = np.empty(0, np.int64)
        if self.recipe.early_stopping and len(y) >= 50:
            inner = spread_rows(y, min(INNER_ROWS, round(INNER_SHARE * len(y))), seed)
        data = tuple(None if a is None else torch.from_numpy(np.array(a)).to(self.device) for a in (X, y, weights))
        self.columns = [torch.from_numpy(part).to(self.device) for part in (self.embedded, self.plain)]
        rows = torch.from_numpy(np.setdiff1d(np.arange(len(y)), inner)).to(self.device)
        best, best_epoch, best_state = math.inf, self.recipe.epochs, None
        patience = max(6, self.recipe.epochs // 4)
        for epoch in range(1, self.recipe.epochs + 1):
            loss = self.epoch(epoch, data, rows)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of TabM is not finite in epoch {epoch}: lower its learning_rate ({self.recipe.learning_rate:g})"
                )
            if len(inner):
                score = self.evaluate(data, torch.from_numpy(inner).to(self.device))
                if score < best:
                    best, best_epoch, best_state = score, epoch, self.flat.clone()
                elif epoch - best_epoch >= patience:
                    break
        if best_state is not None:
            self.flat.copy_(best_state)
        return best_epoch

    def epoch(self, number: int, data: tuple[Any, ...], rows: Any) -> float:
        """One pass over the rows in a random order; the loss of its last step."""
        import torch

        self.modules.train()
        size = min(batch_size(len(rows)), len(rows))
        order = rows[torch.randperm(len(rows)).to(rows.device)]
        per_epoch, loss = len(rows) // size, None
        for step in range(per_epoch):
            t = (number - 1 + step / per_epoch) / self.recipe.epochs
            index = order[step * size : (step + 1) * size]
            X, y, weights = (None if part is None else part[index] for part in data)
            loss = self.loss(self.forward(X), y, weights)
            self.gradient.zero_()
            loss.backward()
            self.step(self.recipe.learning_rate * flat_cos(t))
        return math.nan if loss is None else float(loss.detach())

    def forward(self, x: Any) -> Any:
        """(n, k, outputs)."""
        import torch

        parts = [x[:, self.columns[1]]] if len(self.plain) else []
        if self.embedding is not None:
            parts.insert(0, self.embedding(x[:, self.columns[0]]).flatten(1))
        h = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return self.output(self.backbone(h[:, None, :].expand(-1, self.recipe.k, -1)))

    def loss(self, scores: Any, y: Any, weights: Any) -> Any:
        """The mean of the members' own losses: they learn as k models do, not as their mean."""
        from torch.nn import functional

        if scores.shape[2] == 1:
            losses = (scores[:, :, 0] - y[:, None]) ** 2
        else:
            losses = functional.cross_entropy(
                scores.flatten(0, 1), y.repeat_interleave(self.recipe.k), reduction="none"
            )
            losses = losses.view(len(y), self.recipe.k)
        return (losses if weights is None else losses * weights[:, None]).mean()

    def evaluate(self, data: tuple[Any, ...], rows: Any) -> float:
        """The loss of the members' mean on these rows."""
        import torch

        self.modules.eval()
        with torch.no_grad():
            total, count = 0.0, 0.0
            for part in rows.split(max(64, 2_000_000 // (self.recipe.k * self.recipe.d_block))):
                cut: list[Any] = [None if values is None else values[part] for values in data]
                X, y, weights = cut
                scores = self.forward(X)
                if scores.shape[2] == 1:
                    losses = (scores[:, :, 0].mean(dim=1) - y) ** 2
                else:
                    chances = scores.softmax(dim=2).mean(dim=1)
                    losses = -chances.gather(1, y[:, None])[:, 0].clamp_min(1e-12).log()
                total += float((losses if weights is None else losses * weights).sum())
                count += len(part)
        return total / count

    def step(self, rate: float) -> None:
        """One step of AdamW, the gradient's norm clipped."""
        import torch

        with torch.no_grad():
            gradient = self.gradient
            gradient.mul_(min(1.0, CLIP / (float(gradient.norm()) + 1e-12)))
            self.steps += 1
            self.flat.mul_(1.0 - rate * self.recipe.weight_decay)
            self.first.mul_(0.9).add_(gradient, alpha=0.1)
            self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            root = (self.second / (1.0 - 0.999**self.steps)).sqrt_().add_(1e-8)
            self.flat.addcdiv_(self.first, root, value=-rate / (1.0 - 0.9**self.steps))

    def net(self, task: str, level: float, spread: float) -> Net:
        """The weights as they predict: the target's scale, and the embeddings' linear part, folded in."""

        def array(tensor: Any) -> NDArray[np.float64]:
            return np.asarray(tensor.detach().cpu().numpy(), np.float64)

        k = self.recipe.k
        heads, offsets = array(self.output.weight), array(self.output.bias)
        if task == "regression":
            heads, offsets = heads * spread / k, (offsets * spread + level) / k
        elif task == "binary":
            heads, offsets = heads[:, :, 1:] - heads[:, :, :1], offsets[:, 1:] - offsets[:, :1]
        linears = [block[0] for block in self.backbone.blocks]
        edges = [array(each) for each in self.bins]
        return Net(
            bins=None if self.embedding is None else folded_embedding(self.embedding, edges, self.embedded, array),
            plain=self.plain,
            scaling=floats(array(self.backbone.affine.weight)),
            blocks=[(floats(array(layer.weight).T), floats(array(layer.bias))) for layer in linears],
            heads=floats(heads),
            offsets=floats(offsets),
        )


def _diagonal(heads: Floats) -> Floats:
    """(k width, k outputs): the members' heads as the blocks of one matrix."""
    k, width, outputs = heads.shape
    matrix = np.zeros((k, width, k, outputs), np.float32)
    matrix[np.arange(k), :, np.arange(k)] = heads
    return matrix.reshape(k * width, k * outputs)

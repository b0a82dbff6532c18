"""Ranks by measurement: where the training data's gradients need directions, and how many, under a budget.

On a few micro-batches of training rows, the gradient G `[out, in]` of each adapted weight is sketched without ever
being held: two passes over the same rows give its leading singular values and right singular vectors (Halko et al.
2011, arXiv:0909.4061, algorithms 4.1 and 5.1). The first A of a module is made of its directions, so that the first
step of B already moves the weight as the gradient would (LoRA-GA's aim, arXiv:2407.05000, here with B = 0: nothing is
taken away from the base, and step 0 is the base). A direction a costs in + out parameters and is worth what the first
step of Adam takes off the loss by it: each entry of its column of B moves by the learning rate against the sign of its
gradient G a, so that is the learning rate times the scale times |G a|_1. The most worth for the money is taken until
the budget, that of a uniform rank, is spent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from luthier.adapters.base import Run
from luthier.adapters.lora_init import NAME, layers
from luthier.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.05
"""Most of a run's micro-batches that measuring may cost."""
FEWEST, MOST = 2, 16
"""Micro-batches looked at in each of the two passes."""
WIDTH = 4
"""Directions looked at, and the largest rank, in multiples of the budget's rank."""
FILE = "ranks.json"
SAMPLE = 256
"""Inputs of each layer that are kept, to see how much of them a direction takes up."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one adapted layer: sizes, leading singular values of its gradient, what all of them amount to, first rows.

    `rows` `[k, in]` are right singular vectors, each as long as it must be to answer the layer's inputs as loudly as
    a random row of A does, so that a learning rate means the same; `gains` `[k]` are |G a|_1 of each row a.
    """

    inputs: int
    outputs: int
    values: Tensor
    total: float
    rows: Tensor
    gains: Tensor

    @property
    def cost(self) -> int:
        """Parameters of one more rank."""
        return self.inputs + self.outputs


def measure(model: Any, run: Run, *, rank: int) -> dict[str, Measured]:
    """The spectrum of each adapted layer's gradient on the first training rows.

    Raises:
        ModelError: the rows give no gradient, or a layer is not linear.
    """
    for name, layer in layers(model):
        if NAME not in layer.lora_A:
            raise ModelError(f"adapter.rank: auto measures linear layers, and {_short(name)} is none; write a number")
    count = max(FEWEST, min(MOST, int(SHARE * run.micro_batches / 2)))
    found = {name: _Sketch(layer, WIDTH * rank) for name, layer in layers(model)}
    for first in (True, False):
        with _watched(found):
            for _, _ in zip(range(count), run.calibrate(model), strict=False):
                pass
        if first:
            for sketch in found.values():
                sketch.settle()
    measured = {name: sketch.measured() for name, sketch in found.items()}
    if not any(layer.total for layer in measured.values()):
        raise ModelError("adapter.rank: auto found no gradient in the training rows; write a number")
    return measured


class _Sketch:
    """The gradient of one layer in few numbers: first Y = G times random columns, then Q^T G for Y = Q R."""

    def __init__(self, layer: Any, width: int) -> None:
        import torch

        self.layer = layer
        self.inputs, self.outputs = layer.in_features, layer.out_features
        width = min(width, self.inputs, self.outputs)
        generator = torch.Generator().manual_seed(0)
        self.random = torch.randn(self.inputs, width, generator=generator)
        self.table: Tensor | None = None
        self.basis: Tensor | None = None
        self.sample: list[Tensor] = []

    def add(self, inputs: Tensor, slope: Tensor) -> None:
        """One pass: inputs `[N, in]` and the gradient at the outputs `[N, out]`."""
        x, g = inputs.float(), slope.float()
        if self.basis is None and sum(map(len, self.sample)) < SAMPLE:
            self.sample.append(x[:: max(1, 4 * len(x) // SAMPLE)].clone())  # of four micro-batches or more
        part = g.T @ (x @ self.random.to(x)) if self.basis is None else (g @ self.basis.to(g)).T @ x
        self.table = part if self.table is None else self.table + part

    def settle(self) -> None:
        """From the first pass to the second."""
        import torch

        if self.table is not None:
            self.basis, self.table = torch.linalg.qr(self.table)[0], None

    def measured(self) -> Measured:
        """Singular values and right singular vectors of Q Q^T G.

        The entries of a random row of A are uniform within 1 / sqrt(in) (He et al. 2015, as peft draws them): its
        squared answer to x is |x|^2 / (3 in) in the mean.
        """
        import torch

        if self.table is None:
            none = torch.zeros(0)
            return Measured(self.inputs, self.outputs, none, 0.0, torch.zeros(0, self.inputs), none)
        assert self.basis is not None
        left, values, directions = torch.linalg.svd(self.table, full_matrices=False)
        total = float(values.pow(2).sum())
        seen = torch.cat(self.sample)
        usual = seen.pow(2).sum(-1).mean() / (3 * self.inputs)
        loud = (seen @ directions.T).pow(2).mean(0)
        rows = directions * (usual / loud.clamp_min(1e-6 * usual)).sqrt()[:, None]
        gains = values * rows.norm(dim=-1) * (self.basis.to(left) @ left).abs().sum(0)
        return Measured(self.inputs, self.outputs, values.cpu(), total, rows.cpu(), gains.cpu())


@contextmanager
def _watched(sketches: Mapping[str, _Sketch]) -> Iterator[None]:
    """Show each layer's inputs and the gradients at its outputs to its sketch."""
    hooks = []

    def listen(sketch: _Sketch) -> Any:
        def hook(_: Any, given: tuple[Any, ...], output: Tensor) -> None:
            inputs = given[0].detach().reshape(-1, sketch.inputs)
            if output.requires_grad:
                slopes: Any = output
                slopes.register_hook(lambda slope: sketch.add(inputs, slope.detach().reshape(-1, sketch.outputs)))

        return hook

    for sketch in sketches.values():
        hooks.append(sketch.layer.register_forward_hook(listen(sketch)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def choose(measured: Mapping[str, Measured], *, rank: int) -> dict[str, int]:
    """The rank of each layer, 0 for none, with no more parameters together than a uniform `rank` has."""
    budget = sum(layer.cost * rank for layer in measured.values())
    offers = ((gain / layer.cost, name) for name, layer in measured.items() for gain in layer.gains.tolist())
    ranks = dict.fromkeys(measured, 0)
    for worth, name in sorted(offers, key=lambda offer: -offer[0]):
        if worth > 0 and measured[name].cost <= budget:
            ranks[name] += 1
            budget -= measured[name].cost
    return ranks


def into(settings: Any, ranks: Mapping[str, int]) -> None:
    """Write ranks into a LoraConfig; every layer keeps the scale it would have."""
    chosen = {_short(name): rank for name, rank in ranks.items() if rank}
    settings.target_modules = sorted(chosen)
    settings.rank_pattern = {name: rank for name, rank in chosen.items() if rank != settings.r}
    power = 0.5 if settings.use_rslora else 1.0
    settings.alpha_pattern = {
        name: settings.lora_alpha * (rank / settings.r) ** power for name, rank in settings.rank_pattern.items()
    }


def _short(name: str) -> str:
    return name.removeprefix("base_model.model.")


def begin(model: Any, measured: Mapping[str, Measured]) -> None:
    """Make the first A of each layer of its directions, and keep what was measured for the report."""
    import torch

    for name, layer in layers(model):
        weight = layer.lora_A[NAME].weight
        with torch.no_grad():
            weight.copy_(measured[name].rows[: len(weight)])
    _KNOWN[model] = {
        _short(name): {"rank": 0, "singular_values": [float(f"{v:.4g}") for v in own.values[:SHOWN]], "share": 0.0}
        for name, own in measured.items()
    }
    for name, layer in layers(model):
        own, rank = measured[name], layer.r[NAME]
        share = float(own.values[:rank].pow(2).sum()) / max(own.total, 1e-30)
        _KNOWN[model][_short(name)] |= {"rank": rank, "share": round(share, 4)}


SHOWN = 16
"""Singular values kept for the report."""
_KNOWN: WeakKeyDictionary[Any, dict[str, dict[str, Any]]] = WeakKeyDictionary()
"""What was measured, by model."""


def note(model: Any, folder: Path) -> None:
    """Write what was measured beside the adapter."""
    if model in _KNOWN:
        (folder / FILE).write_text(json.dumps(_KNOWN[model], indent=1) + "\n", encoding="utf-8")


def recall(model: Any, folder: Path) -> None:
    """Read what a run measured when it began."""
    if (folder / FILE).is_file():
        _KNOWN[model] = json.loads((folder / FILE).read_text(encoding="utf-8"))


def report(model: Any) -> str | None:
    """A table of ranks by layer and kind of module; spectra are in ranks.json."""
    known = _KNOWN.get(model)
    if known is None:
        return None
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in known))
    table: dict[str, dict[str, int]] = {}
    for name, own in known.items():
        place, _, kind = name.rpartition(".")
        number = next((part for part in place.split(".") if part.isdigit()), place)
        table.setdefault(number, {})[kind] = own["rank"]
    lines = [f"| layer | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    lines += [f"| {n} | {' | '.join(str(row.get(kind, '')) for kind in kinds)} |" for n, row in table.items()]
    spectra = []
    for name, own in known.items():
        values = ", ".join(f"{value:.2g}" for value in own["singular_values"])
        spectra.append(f"| {name} | {own['rank']} | {100 * own['share']:.0f} % | {values} |")
    head = [
        "",
        "| module | rank | of the squared gradient | leading singular values of the gradient |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *head, *spectra])

"""How near loss and gradients are to float64: `python -m benchmarks.exactness`.

One batch of real rows through SmolLM2 with LoRA matrices that are not zero. The truth is the definition: the same rows,
padded, through the same weights in float64, and a cross-entropy in float64. The peer is plain transformers + peft in
float32: the padded batch and the model's own loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import MODEL, SHIPPED, machine, print_table
from luthier.adapters.lora import Lora
from luthier.config import DataConfig, ModelConfig, SourceConfig
from luthier.data.loader import Loader
from luthier.data.pack import Example, Layout, lay_out
from luthier.data.processor import DataProcessor
from luthier.models.load import ModelLoader
from luthier.models.output import Forward
from luthier.objectives.sft import Sft

ROWS = 8


@dataclass(frozen=True)
class Errors:
    """Distance from float64: of the loss, and of the gradient as a whole (both relative)."""

    loss: float
    gradient: float


def real_rows(count: int) -> list[Example]:
    """The first of the shipped rows, rendered for the real model."""
    config = ModelConfig(path=MODEL)
    renderer = ModelLoader().renderer(config)
    data = DataConfig(train=[SourceConfig(path=str(SHIPPED), limit=count)], held_out=0.0)
    return list(DataProcessor().prepare(data, renderer, Sft()).train)


def with_adapters(dtype: str) -> Any:
    """The model with LoRA matrices drawn in float32, whatever its type."""
    tuned: Any = Lora(rank=8).attach(ModelLoader().load(ModelConfig(path=MODEL), dtype=dtype))
    generator = torch.Generator().manual_seed(1)
    for name, p in tuned.named_parameters():
        if "lora_" in name:
            drawn = torch.randn(p.shape, generator=generator) * (0.05 if "lora_A" in name else 0.02)
            p.data = drawn.to(getattr(torch, dtype))
    return tuned.eval()


def ours(model: Any, examples: list[Example]) -> tuple[float, Tensor]:
    """Loss and gradient as a training step computes them."""
    model.zero_grad()
    forward, objective, layout = Forward(model), Sft(), Layout(packing=True, tokens=512)
    micro = Loader(examples, batch_size=len(examples), seed=0, layout=layout).micro_batches(examples)
    units, total = sum(objective.units(batch) for batch in micro), 0.0
    for batch in micro:
        loss = objective.loss(forward(model, batch), batch)[0] / units
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total, gradient(model)


def theirs(model: Any, examples: list[Example]) -> tuple[float, Tensor]:
    """Loss and gradient of transformers on the padded batch."""
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    loss = model(**padded(examples)).loss
    loss.backward()
    model.set_attn_implementation("luthier")
    return float(loss.detach()), gradient(model)


def truth(model: Any, examples: list[Example]) -> tuple[float, Tensor]:
    """Loss and gradient by the definition: logits of the padded batch in float64, and a cross-entropy in float64.

    The model's own loss will not do, since transformers casts logits to float32 for it.
    """
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    batch = padded(examples)
    labels = batch.pop("labels")[:, 1:].flatten()
    logits = model(**batch).logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    loss.backward()  # type: ignore[no-untyped-call]
    model.set_attn_implementation("luthier")
    return float(loss.detach()), gradient(model)


def padded(examples: list[Example]) -> dict[str, Tensor]:
    """A batch as transformers takes it: right padding, a mask, labels of -100 where nothing is asked."""
    batch = lay_out(examples, Layout(packing=False, tokens=2**31))
    labels = torch.full_like(batch.ids, -100).flatten()
    labels[batch.targets.position + 1] = batch.targets.label
    mask = torch.zeros_like(batch.ids)
    for row, segment in enumerate(batch.segments):
        mask[row, : segment.length] = 1
    return {"input_ids": batch.ids, "attention_mask": mask, "labels": labels.view_as(batch.ids)}


def gradient(model: Any) -> Tensor:
    """All gradients as one float64 vector."""
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.requires_grad])


def measure() -> dict[str, Errors]:
    """The errors of both ways in float32."""
    examples = real_rows(ROWS)
    true_loss, true_slope = truth(with_adapters("float64"), examples)
    model = with_adapters("float32")
    errors = {}
    for name, way in (("luthier", ours), ("transformers + peft", theirs)):
        loss, slope = way(model, examples)
        distance = float((slope - true_slope).norm() / true_slope.norm())
        errors[name] = Errors(abs(loss - true_loss) / true_loss, distance)
    return errors


def main() -> None:
    """Print the table."""
    print(machine())
    rows = [(name, f"{e.loss:.1e}", f"{e.gradient:.1e}") for name, e in measure().items()]
    print_table(("float32", "loss, from float64", "gradient, from float64"), rows)


if __name__ == "__main__":
    main()

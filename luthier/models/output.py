"""What a model says about a batch: log-probabilities at the targets, and nothing where nothing is asked.

The model's own forward runs unchanged. A pre-hook on its output head hands over the hidden states at the target
positions; for a plain linear head the kernel takes it from there and the head itself sees no row, for any other head
(soft-capped, scaled, adapted) it runs on the target positions only.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from luthier.data.pack import Batch, Targets
from luthier.errors import ModelError
from luthier.kernels.logprobs import label_logprobs, logits_to_logprobs
from luthier.system.hardware import Precision


@dataclass(frozen=True, slots=True)
class Output:
    """The answer to one batch."""

    hidden: Tensor | None
    head: nn.Linear | None
    logits: Tensor | None = field(default=None)
    precision: Precision = "fp32"

    def logprobs(self, targets: Targets) -> Tensor:
        """log p(label) `[N]` in float32 (float64 for a float64 model), in the order of the targets."""
        if self.logits is not None:
            return logits_to_logprobs(self.logits, targets.label)
        assert self.hidden is not None and self.head is not None
        with autocast(self.precision, self.hidden.device):
            return label_logprobs(self.hidden, self.head.weight, targets.label, self.head.bias)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The arithmetic of forward passes."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class Forward:
    """Runs a model on batches in one precision. Made once per model; decides once which way its head goes."""

    def __init__(self, model: nn.Module, precision: Precision = "fp32") -> None:
        self.precision = precision
        self.head = output_head(model)
        self.virtual = has_virtual_tokens(model)
        self.plain_head = type(self.head) is nn.Linear and not head_is_bent(model)

    def __call__(self, model: nn.Module, batch: Batch) -> Output:
        """One forward pass; `model` is the model given before, or that model wrapped by a strategy."""
        taken: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
            hidden: Tensor = args[0]
            place, ahead = batch.targets.position, hidden.shape[1] - batch.ids.shape[1]
            if ahead:  # virtual tokens in front of every row
                place = place + ahead * (place // batch.ids.shape[1] + 1)
            picked = hidden.reshape(-1, hidden.shape[-1])[place]
            taken.append(picked)
            return (picked[:0] if self.plain_head else picked,)

        hook = self.head.register_forward_pre_hook(take)
        try:
            packed = {} if batch.lengths is None else {"segments": batch.lengths}
            placed = {} if self.virtual else {"position_ids": batch.positions}  # peft counts for itself
            with autocast(self.precision, batch.ids.device):
                result = model(input_ids=batch.ids, use_cache=False, **placed, **packed)
        finally:
            hook.remove()
        if self.plain_head:
            return Output(taken[0], self.head, precision=self.precision)
        return Output(None, None, result.logits)


def has_virtual_tokens(model: nn.Module) -> bool:
    """Whether an adapter puts positions in front of every row; rows of such a model are padded on the right only."""
    peft = sys.modules.get("peft")  # which takes seconds to import, and whose models exist only after that
    return peft is not None and isinstance(model, peft.PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def output_head(model: nn.Module) -> nn.Linear:
    """The module that turns hidden states into logits.

    Raises:
        ModelError: the model has none, so it is not a language model.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output head; Luthier tunes causal language models")
    return head  # type: ignore[no-any-return]


def head_is_bent(model: nn.Module) -> bool:
    """Whether the model does more to its logits than the linear head, found by asking it about three tokens.

    The hidden states are stretched until the largest logit is 100: soft caps hardly bend the small logits of a model
    that has learnt nothing yet.
    """
    head = output_head(model)
    training = model.training

    def ask(stretch: float) -> tuple[Tensor, Tensor]:
        """What the linear head makes of the hidden states, and what the model does."""
        seen: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
            seen.append(args[0] * stretch)
            return (seen[0],)

        with head.register_forward_pre_hook(take):
            ids = torch.arange(3, device=head.weight.device)[None]
            logits = model(input_ids=ids, use_cache=False).logits
        return head(seen[0]).float(), logits.float()

    try:
        model.eval()
        with torch.no_grad():
            linear, _ = ask(1.0)
            return not torch.allclose(*ask(100 / max(float(linear.abs().max()), 1e-3)), rtol=1e-5, atol=1e-5)
    finally:
        model.train(training)

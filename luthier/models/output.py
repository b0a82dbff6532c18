"""What a model says about a batch: log-probabilities at the targets, and nothing where nothing is asked.

The model's own forward runs unchanged. A pre-hook on its output head hands over the hidden states at the target
positions; for a plain linear head the kernel takes it from there and the head itself sees no row, for any other head
(soft-capped, scaled, adapted) it runs on the target positions only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from luthier.data.pack import Batch, Targets
from luthier.errors import ModelError
from luthier.kernels.divergence import Direction, divergence, divergence_plain
from luthier.kernels.logprobs import label_logprobs, logits_to_logprobs
from luthier.system.hardware import Precision


@dataclass(frozen=True, slots=True)
class Output:
    """The answer to one batch. `hidden` `[N, D]` and `head`, or `logits` `[N, V]`, stand at the target positions.

    `scores` is what a head of one number says: everywhere `[B*T]`, or, where it stands beside the language head
    (`expected`), at the target positions `[N]`. `teacher` is the answer of another model.
    """

    hidden: Tensor | None = None
    head: nn.Linear | None = None
    logits: Tensor | None = None
    precision: Precision = "fp32"
    training: bool = False
    scores: Tensor | None = None
    expected: bool = False
    teacher: Output | None = None

    def logprobs(self, targets: Targets, *, smoothing: float = 0.0, temperature: float = 1.0) -> Tensor:
        """log p(label) `[N]` in float32 (float64 for a float64 model), in the order of the targets.

        With `smoothing`, the labels are that share of all tokens alike; the logits are divided by `temperature`.
        """
        if self.logits is not None:
            return logits_to_logprobs(self.logits / temperature, targets.label, smoothing=smoothing)
        assert self.hidden is not None and self.head is not None
        hidden: Tensor = self.hidden
        bias: Tensor | None = self.head.bias
        if temperature != 1.0:
            hidden, bias = hidden / temperature, None if bias is None else bias / temperature
        with autocast(self.precision, self.hidden.device):
            return label_logprobs(hidden, self.head.weight, targets.label, bias, smoothing=smoothing)

    def values(self, targets: Targets) -> Tensor:
        """A number for each target `[N]` in at least float32.

        Of a scoring model: its score where the label stands. Of a value head: what is to be expected before it is said.
        """
        assert self.scores is not None, "the model has a language head only"
        scores = self.scores if self.expected else self.scores[targets.place]
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def divergence(self, *, direction: Direction, temperature: float) -> Tensor:
        """How far the next-token distributions at the targets are from the teacher's, `[N]` in nats."""
        assert self.teacher is not None, "no teacher was asked"
        if self._linear and self.teacher._linear and not (self.head and self.head.weight.requires_grad):
            assert self.hidden is not None and self.head is not None
            assert self.teacher.hidden is not None and self.teacher.head is not None
            with autocast(self.precision, self.hidden.device):
                known = min(len(self.head.weight), len(self.teacher.head.weight))  # heads are padded, to unequal sizes
                return divergence(
                    self.hidden,
                    self.head.weight[:known],
                    self.teacher.hidden,
                    self.teacher.head.weight[:known],
                    direction=direction,
                    temperature=temperature,
                )
        own, told = self._all_logits(), self.teacher._all_logits()
        known = min(own.shape[-1], told.shape[-1])
        return divergence_plain(own[:, :known], told[:, :known], direction=direction, temperature=temperature)

    @property
    def _linear(self) -> bool:
        return self.logits is None and self.head is not None and self.head.bias is None

    def _all_logits(self) -> Tensor:
        if self.logits is not None:
            return self.logits
        assert self.hidden is not None and self.head is not None
        with autocast(self.precision, self.hidden.device):
            return nn.functional.linear(self.hidden, self.head.weight, self.head.bias)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The arithmetic of forward passes."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


class Forward:
    """Runs a model on batches in one precision. Made once per model; decides once which way its head goes.

    `embedding_noise` is the a of NEFTune (Jain et al. 2023, arXiv:2310.05914): while training, each number of an input
    embedding gets uniform noise of at most a / sqrt(L D), L the length of its sequence, D the width. `bent` says
    whether logits are more than a product with the head's weight; None: it is tried.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision = "fp32",
        *,
        embedding_noise: float = 0.0,
        teacher: Callable[[Batch], Output] | None = None,
        bent: bool | None = None,
    ) -> None:
        self.precision, self.embedding_noise, self.teacher = precision, embedding_noise, teacher
        self.embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        scoring = score_head(model)
        self.head = output_head(model) if scoring is None else scoring
        self.scoring = scoring is not None
        self.value_head = value_head(model)
        self.virtual = has_virtual_tokens(model)
        self.plain_head = not self.scoring and type(self.head) is nn.Linear
        if self.plain_head:
            self.plain_head = not (head_is_bent(model) if bent is None else bent)

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

        def listen(_: nn.Module, __: tuple[Any, ...], scores: Tensor) -> None:
            taken.append(scores.reshape(-1))

        hook = self.head.register_forward_hook(listen) if self.scoring else self.head.register_forward_pre_hook(take)
        try:
            inputs = batch.inputs
            if self.virtual:
                inputs.pop("position_ids")  # peft counts for itself
            with self.around(model, batch):
                result = model(use_cache=False, **inputs)
        finally:
            hook.remove()
        output = Output(
            precision=self.precision,
            training=model.training,
            teacher=None if self.teacher is None else self.teacher(batch),
        )
        if self.scoring:
            return replace(output, scores=taken[0])
        if self.value_head is not None:
            wide = taken[0].to(self.value_head.weight.dtype)
            output = replace(output, scores=self.value_head(wide)[:, 0], expected=True)
        if self.plain_head:
            return replace(output, hidden=taken[0], head=self.head)
        return replace(output, logits=result.logits)

    @contextmanager
    def around(self, model: nn.Module, batch: Batch) -> Iterator[None]:
        """The arithmetic and the noise of one pass."""
        with autocast(self.precision, batch.ids.device), self._noise(model, batch):
            yield

    @contextmanager
    def _noise(self, model: nn.Module, batch: Batch) -> Iterator[None]:
        """Noise on the embeddings of one training pass."""
        if not (self.embedding_noise and model.training):
            yield
            return

        def add(_: nn.Module, __: tuple[Any, ...], embedded: Tensor) -> Tensor:
            lengths = torch.ones(batch.ids.numel(), device=embedded.device)
            for segment in reversed(batch.segments):  # what several share stands before the first of them
                shared = segment.length - segment.own
                lengths[segment.start - shared : segment.start + segment.own] = segment.length
            most = self.embedding_noise / (lengths.view(*batch.ids.shape, 1) * embedded.shape[-1]).sqrt()
            return embedded + torch.empty_like(embedded).uniform_(-1, 1) * most

        hook = self.embeddings.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


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


def score_head(model: nn.Module) -> nn.Linear | None:
    """The module that turns hidden states into one number, or None for a language model."""
    from peft import PeftModel

    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not type(inner).__name__.endswith("ForSequenceClassification"):
        return None
    heads = [child for name, child in inner.named_children() if name != inner.base_model_prefix]
    return heads[-1]  # type: ignore[no-any-return]


VALUE_HEAD = "value_head"


def add_value_head(model: nn.Module) -> None:
    """Give a language model a second head of one number, which says 0 until it is trained."""
    width = output_head(model).weight.shape[1]
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    model.add_module(VALUE_HEAD, head)


def value_head(model: nn.Module) -> nn.Linear | None:
    """The head that was added, or None."""
    found = dict(model.named_children()).get(VALUE_HEAD)
    return found if isinstance(found, nn.Linear) else None


@contextmanager
def without_value_head(model: nn.Module) -> Iterator[nn.Linear | None]:
    """The model as others know it, while it is saved or loaded; gives the head that was taken off."""
    head = value_head(model)
    if head is not None:
        delattr(model, VALUE_HEAD)
    try:
        yield head
    finally:
        if head is not None:
            model.add_module(VALUE_HEAD, head)


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

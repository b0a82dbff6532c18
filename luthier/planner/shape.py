"""What a training step takes of one process, from the shape of a model alone.

A model of a few layers is made without numbers, with its adapter, and a step of it is gone through by torch's fake
tensors, which know sizes and nothing else: what is alive at each operation is added up. Two numbers of layers say what
each adds. A model whose layers are cut among t processes is one with a t-th of the heads and of the inner width.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from luthier.adapters.base import Adapter, Run
from luthier.config import RunConfig
from luthier.data.conversation import Content, Origin
from luthier.data.pack import Example, Layout, lay_out
from luthier.data.render import Tokens
from luthier.distributed.layers import FAMILIES, base_of
from luthier.errors import ModelError
from luthier.models.find import find
from luthier.models.load import Readable
from luthier.models.output import Forward
from luthier.models.recompute import recompute_layers
from luthier.objectives.sft import Sft
from luthier.registry.index import place_of
from luthier.system.hardware import Precision

LAYERS = (2, 4)
"""Of the models that are gone through: enough that each further layer adds the same."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Weights: how many, how many of them are trained, and the bytes of all."""

    numbers: int
    trained: int
    bytes: int

    @classmethod
    def of(cls, model: nn.Module) -> Counts:
        """Of a model."""
        every = list(model.parameters())
        trained = sum(p.numel() for p in every if p.requires_grad)
        return cls(sum(p.numel() for p in every), trained, sum(p.numel() * p.element_size() for p in every))

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.numbers + other.numbers, self.trained + other.trained, self.bytes + other.bytes)

    def __mul__(self, times: int) -> Counts:
        return Counts(self.numbers * times, self.trained * times, self.bytes * times)

    def __floordiv__(self, by: int) -> Counts:
        """Rounded up, as the largest piece is."""
        return Counts(-(-self.numbers // by), -(-self.trained // by), -(-self.bytes // by))

    def __sub__(self, other: Counts) -> Counts:
        return self + other * -1


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that a pass holds besides weights and gradients: for each layer until its backward pass, and once."""

    layer: int
    once: int


def model_config(path: str) -> Any:
    """The sizes of a model: of a folder (its weights need not be there), a hub id, or a name of the catalogue."""
    from transformers import AutoConfig

    place = place_of(path)
    with Readable(path):
        return AutoConfig.from_pretrained(place if (place / "config.json").is_file() else find(path).location)


class Shape:
    """A run's model with its adapter."""

    def __init__(self, config: RunConfig, precision: Precision) -> None:
        """Read the model's sizes.

        Raises:
            ModelError: there is no such model, or none of language.
        """
        self.config, self.precision = config, precision
        self.sizes = model_config(config.model.path)
        text = self.sizes.get_text_config()
        model = _whole(self.sizes)
        self.layers: int = text.num_hidden_layers
        self.width: int = text.hidden_size
        self.heads: int = text.num_attention_heads
        self.key_value_heads: int = getattr(text, "num_key_value_heads", None) or self.heads
        self.tied = bool(self.sizes.tie_word_embeddings)
        self.has_plan = bool(model.tp_plan)
        self.in_stages = type(model).__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel") in FAMILIES
        self._adapted: Callable[[int, int], nn.Module] = cache(self._make)
        self.held: Callable[[int, int], Held] = cache(self._gone_through)

    @property
    def whole(self) -> Counts:
        """Of the whole model."""
        return self.layer() * self.layers + self.ends

    @property
    def ends(self) -> Counts:
        """Of what stands around the layers: embeddings, norm and head."""
        few, _ = LAYERS
        return Counts.of(self._adapted(few, 1)) - self.layer() * few

    def layer(self, parts: int = 1) -> Counts:
        """Of what one of so many processes has of a layer."""
        few, more = LAYERS
        return (Counts.of(self._adapted(more, parts)) - Counts.of(self._adapted(few, parts))) // (more - few)

    def can_be_cut(self, parts: int) -> bool:
        """Whether each layer can be on so many processes."""
        return parts == 1 or (self.has_plan and _divided(self.sizes, parts) is not None)

    def _gone_through(self, tokens: int, parts: int) -> Held:
        """By a micro-batch of so many tokens, its logits among them, where one of so many processes has a layer."""
        few, more = LAYERS
        low, high = (_alive(self._adapted(layers, parts), tokens, self.precision) for layers in LAYERS)
        each = max(high - low, 0) // (more - few)
        return Held(each, max(low - few * each, 0))

    def _make(self, layers: int, parts: int) -> nn.Module:
        """The model with what is trained of it; what an adapter would measure is as it is by default."""
        adapter = cast(Adapter, self.config.adapter)
        plain = {"rank": getattr(adapter, "usual_rank", None), "init_lora_weights": "default"}
        known = {name: value for name, value in plain.items() if hasattr(adapter, name) and value is not None}
        model = _whole(_divided(self.sizes, parts), layers)
        dtype = torch.float32 if adapter.trains_base or self.precision == "fp32" else torch.bfloat16
        with torch.device("meta"):
            model = cast(Any, adapter).model_copy(update=known).attach(model.to(dtype), Run(total_steps=100))
        if self.config.train.gradient_checkpointing:
            recompute_layers(model, every=int(self.config.train.gradient_checkpointing))
        return cast(nn.Module, model)


def _whole(sizes: Any, layers: int = 1) -> Any:
    """A model of so many layers, without numbers."""
    from transformers import AutoModelForCausalLM

    from luthier.kernels.attention import NAME, register

    register()
    sizes = deepcopy(sizes)
    text = sizes.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[0]] * layers
    with torch.device("meta"):
        try:
            return AutoModelForCausalLM.from_config(sizes, attn_implementation=NAME)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"a {type(sizes).__name__} makes no language model: {error}") from error


def _divided(sizes: Any, parts: int) -> Any:
    """The sizes of a part of each layer, or None where they cannot be divided."""
    if parts == 1:
        return sizes
    sizes = deepcopy(sizes)
    text = sizes.get_text_config()
    text.head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        size = getattr(text, name, None)
        if size is None or size % parts:
            return None
        setattr(text, name, size // parts)
    return sizes


def _alive(model: nn.Module, tokens: int, precision: Precision) -> int:
    """As `bytes_of_pass`, of a model without numbers."""
    with FakeTensorMode(), _without_numbers(model):
        return bytes_of_pass(model, tokens, precision)


def bytes_of_pass(model: nn.Module, tokens: int, precision: Precision) -> int:
    """The most bytes of one micro-batch, besides weights and the gradients of a micro-batch before it."""
    ids, weights = np.zeros(tokens, dtype=np.int32), np.ones(tokens, dtype=np.float32)
    example = Example(Origin("", 0), "", (Tokens(ids, weights),), cast(Content, None))
    batch = lay_out([example], Layout(packing=True, tokens=tokens, rows=None, pad_id=0))
    bent = getattr(base_of(model).config.get_text_config(), "final_logit_softcapping", None) is not None
    forward = Forward(cast(Any, model), precision, bent=bent)
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    with Alive() as alive:
        loss, _ = Sft().loss(forward(model, batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    most: int = alive.most
    return most


@contextmanager
def _without_numbers(model: nn.Module) -> Iterator[None]:
    """Inside a mode of fake tensors: a model's tensors on the CPU, whose kernels keep what those of others keep."""
    tables = [table for module in model.modules() for table in (module._parameters, module._buffers)]
    kept = [(cast(dict[str, Any], table), name, table[name]) for table in tables for name in table]
    made: dict[Tensor, Tensor] = {}
    for _, _, tensor in kept:
        if tensor is not None and tensor not in made:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            is_weight = isinstance(tensor, nn.Parameter)
            made[tensor] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_weight else fake
    try:
        for table, name, tensor in kept:
            table[name] = None if tensor is None else made[tensor]
        yield
    finally:
        for table, name, tensor in kept:
            table[name] = tensor


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that were made since and are not gone; `most` is the peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(made):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known and key not in given:
                self._known.add(key)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return made

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

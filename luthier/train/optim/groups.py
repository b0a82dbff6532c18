"""Which parameters are decayed, and how fast each learns: decided here, for every optimizer."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from luthier.adapters.base import Adapter, trainable
from luthier.distributed.strategy import local
from luthier.errors import UserError
from luthier.train.optim.base import Group


def parameter_groups(
    model: nn.Module, adapter: Adapter, *, weight_decay: float = 0.0, layer_decay: float = 1.0
) -> list[Group]:
    """The trained parameters in groups, each of which shares decay, learning-rate scale and role.

    Norms and biases are never decayed. With `layer_decay` below 1, each layer learns that much slower than the one
    above it: the head and the last norm at the full rate, the embeddings slowest (Clark et al. 2020, arXiv:2003.10555).
    A tied head is the embedding. The adapter's own scales (LoRA+) multiply.

    Raises:
        UserError: `layer_decay` for a model whose layers cannot be told apart.
    """
    outside = _embeddings_and_head(model)
    depth = _Depth(model) if layer_decay != 1 else None
    found: dict[tuple[float, float, bool, bool], dict[str, nn.Parameter]] = {}
    for name, parameter in trainable(model).items():
        bias = name.rpartition(".")[2].endswith("bias")  # experts have one row of biases each
        decay = 0.0 if parameter.ndim < 2 or bias else weight_decay
        scale = adapter.learning_rate_scale(name) * (layer_decay ** depth(name, parameter) if depth else 1.0)
        matrix = parameter.ndim == 2 and min(parameter.shape) > 1 and not bias
        hidden = matrix and id(parameter) not in outside
        cut = local(parameter) is not parameter  # libraries take a group at once, all cut or none
        found.setdefault((decay, scale, hidden, cut), {})[name] = parameter
    return [Group(parameters, *key[:3]) for key, parameters in found.items()]


def _embeddings_and_head(model: Any) -> set[int]:
    """The parameters, by id, of all tables of embeddings and of the output head, adapted ones too."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    modules = [*ends, *(module for module in model.modules() if isinstance(module, nn.Embedding))]
    return {id(parameter) for module in modules if module is not None for parameter in module.parameters()}


class _Depth:
    """How many layers lie above a parameter: 0 for the head, one more than the model has for the embeddings."""

    def __init__(self, model: Any) -> None:
        self.layers = int(model.config.get_text_config().num_hidden_layers)
        lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == self.layers}
        if not lists:
            raise UserError(
                f"train.layer_decay: the layers of {type(model).__name__} cannot be told apart; write layer_decay: 1"
            )
        self.number = re.compile(re.escape(min(lists, key=lambda name: name.count("."))) + r"\.(\d+)\.")
        self.embeddings = {id(p) for p in model.get_input_embeddings().parameters()}

    def __call__(self, name: str, parameter: nn.Parameter) -> int:
        if id(parameter) in self.embeddings:
            return self.layers + 1
        layer = self.number.match(name)
        return 0 if layer is None else self.layers - int(layer[1])

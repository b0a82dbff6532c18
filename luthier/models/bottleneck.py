"""Bottleneck adapters as a method of peft: import this module, and peft saves and loads them as its own.

A small network behind a layer: h + U f(D h), with U zero at first, so that the model begins as its base. Several
adapters that are active together stand one behind the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def _add_to_peft_types(name: str) -> None:
    """peft looks methods up in an enumeration, to which Python has no public way to add."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
    type.__setattr__(PeftType, name, member)


if "BOTTLENECK" not in PeftType.__members__:
    _add_to_peft_types("BOTTLENECK")


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """What `adapter_config.json` holds."""

    target_modules: list[str] | None = field(default=None)
    """Layers behind which an adapter stands; their outputs are as wide as the model."""
    exclude_modules: list[str] | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    hidden_size: int = field(default=0)
    """The width of the model."""
    bottleneck_size: int = field(default=64)
    non_linearity: str = field(default="relu")
    dropout: float = field(default=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("BOTTLENECK")


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A layer with adapters behind it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_bend", "bottleneck_dropout")

    def __init__(self, base_layer: nn.Module, name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down: Any = nn.ModuleDict()
        self.bottleneck_up: Any = nn.ModuleDict()
        self.bottleneck_bend: Any = nn.ModuleDict()
        self.bottleneck_dropout: Any = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._active_adapter = name
        self.update_layer(name, config)

    def update_layer(self, name: str, config: BottleneckConfig) -> None:
        """Add an adapter that does nothing yet."""
        self.bottleneck_down[name] = nn.Linear(config.hidden_size, config.bottleneck_size)
        up = nn.Linear(config.bottleneck_size, config.hidden_size)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_up[name] = up
        self.bottleneck_bend[name] = ACTIVATIONS[config.non_linearity]()
        self.bottleneck_dropout[name] = nn.Dropout(config.dropout)
        tuner: Any = self
        tuner._move_adapter_to_device_of_base_layer(name)
        tuner.set_adapter(tuner.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output `[..., hidden]` and what the active adapters add to it."""
        result: Tensor = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return result
        tuner: Any = self
        for name in tuner.active_adapters:
            if name in self.bottleneck_down:
                down = self.bottleneck_down[name]
                given = self.bottleneck_dropout[name](result).to(down.weight.dtype)
                inner = self.bottleneck_bend[name](down(given))
                result = result + self.bottleneck_up[name](inner).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: FBT001, FBT002
        """Impossible.

        Raises:
            ValueError: always; what bends its input is no change of a weight.
        """
        raise ValueError("a bottleneck adapter cannot be merged into the weights of its model")


class BottleneckModel(BaseTuner):  # type: ignore[misc]
    """A model with bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - as peft declares it

    def _create_and_replace(
        self, peft_config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str,
    ) -> None:  # fmt: skip
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(requires_grad=False)
        self._replace_module(parent, target_name, layer, target)


register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)

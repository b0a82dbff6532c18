"""An adapter decides which weights are trained.

What it does: prepares a model for training, acts before and after a step where its method needs it, saves what was
trained in a folder that plain transformers or peft loads, and loads it back.
What it must not know: data, objectives, the loop, how many devices there are. What its method measures on data before
training, it measures through `Run.calibrate`.
How to add one: one file here with one class, one line under `adapter` in `plugins.yaml` (or an entry point
`luthier.adapter`). A subclass of `Adapter` writes only what differs from the defaults; of `PeftPart`
(`peft_part.py`), little more than the settings that peft needs. Import torch and peft inside the methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from luthier.config import RunConfig
from luthier.plugins import Part

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Model: TypeAlias = "PreTrainedModel"


@dataclass(frozen=True, slots=True)
class Run:
    """What an adapter may know of the run it is attached for; by default nothing, which most kinds do not need."""

    total_steps: int = 0
    """Optimizer steps of the whole run."""
    micro_batches: int = 0
    """Forward passes of the whole run on one rank, about."""
    calibrate: Callable[[nn.Module], Iterator[None]] = lambda model: iter(())
    """Runs a model forward on one training micro-batch each time the iterator is asked, and backward (loss per unit)
    where gradients are enabled; they are gone when it is asked again, and when training begins. Without end, the same
    on every rank, and without padding where each row is one sequence, so that every position a hook sees is a token."""
    checkpoint: Callable[[], Path | None] = lambda: None
    """The newest checkpoint if the run goes on, for what an adapter would else measure or draw anew."""
    start: Path | None = None
    """The folder of the tuned adapter that the model carries, where the run starts from one."""
    widened: bool = True
    """Whether trained weights of the model become float32 here; else they do where they have been cut."""


UNKNOWN_RUN = Run()


class Learnt(Protocol):
    """What an adapter may know of the objective, to refuse what cannot work."""

    type: str
    online: ClassVar[bool]
    """Whether rows only ask, so that they teach nothing before they are answered."""

    @property
    def needs(self) -> Any:
        """`needs.scores`: whether the model has a head of one number instead of its language head."""


class Adapter(Part):
    """Base of every adapter: what suits most kinds; each writes what differs."""

    learning_rates: ClassVar[tuple[float, float]]
    """The range in which peak learning rates of this method usually lie; outside, the check warns."""
    trains_base: ClassVar[bool] = False
    """Whether the model's own weights are trained, which are then loaded and kept in float32."""

    @property
    def virtual_tokens(self) -> int:
        """Positions it puts in front of every row. Rows with some cannot share a row, so that they are padded."""
        return 0

    @property
    def base_bits(self) -> int | None:
        """Bits of the weights of a quantised base model; None: as they are."""
        return None

    def refusal(self, config: RunConfig) -> str | None:
        """Why it cannot train under a config and what to write instead, or None; asked before the model is loaded."""
        return None

    def learning_rate_scale(self, name: str) -> float:
        """What the learning rate of the trained parameter of this name is multiplied with."""
        return 1.0

    @abstractmethod
    def attach(self, model: Model, run: Run = UNKNOWN_RUN) -> Model:
        """Freeze and add weights; returns the model to train (in evaluation mode, weights in float32 where trained)."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A term of the loss that depends on the weights alone; counted once a step, whatever the micro-batches."""
        return None

    def before_step(self, model: nn.Module, step: int) -> None:
        """Look at the gradients of a whole step, clipped; steps count from 1."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Act after an optimizer step, for methods that change during training."""

    @abstractmethod
    def save(self, model: Model, folder: Path) -> None:
        """Write the trained weights; the folder exists."""

    def checkpoint(self, model: Model, folder: Path) -> None:
        """As `save`, and besides whatever `load` needs so that training goes on exactly."""
        self.save(model, folder)

    @abstractmethod
    def load(self, model: Model, folder: Path) -> None:
        """Put what a checkpoint holds back into an attached model."""

    def report(self, model: Model) -> str | None:
        """What it measured, as Markdown for the report of the run; None: nothing."""
        return None


def peft_task(model: nn.Module) -> str:
    """What peft calls the kind of model; it keeps and saves the new head of one that scores."""
    return "SEQ_CLS" if type(model).__name__.endswith("ForSequenceClassification") else "CAUSAL_LM"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    import torch

    def size(parameter: nn.Parameter) -> int:  # bitsandbytes packs two weights of 4 bits into one byte
        return parameter.numel() * (2 if parameter.dtype is torch.uint8 else 1)

    sizes = [(size(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)

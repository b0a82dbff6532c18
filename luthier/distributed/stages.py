"""The stages of a pipeline, and the schedules of torch that run them.

Stages are cut where the dearest is cheapest, by measured times. The schedules are 1F1B (Narayanan et al. 2021,
arXiv:2104.04473), interleaved, and zero-bubble (Qi et al. 2023, arXiv:2401.10241). They take tensors of one shape, so
that hidden states travel as `[tokens, width]`, filled up to the longest micro-batch, and micro-batches as their number:
every rank of a pipeline has them all. Copies of the pipeline may share the rows (`data`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import pipelining

from luthier.distributed.layers import Layers, cut
from luthier.distributed.mesh import Mesh
from luthier.distributed.strategy import Around, LossOf, Movable, Of, Sums
from luthier.distributed.together import Together, add_up, leave_file, squares, swapped

SCHEDULES = {
    "gpipe": (pipelining.ScheduleGPipe, 1),
    "1f1b": (pipelining.Schedule1F1B, 1),
    "interleaved": (pipelining.ScheduleInterleaved1F1B, 2),
    "zero-bubble": (pipelining.ScheduleInterleavedZeroBubble, 2),
    "zbv": (pipelining.ScheduleZBVZeroBubble, 2),
}
"""Those of torch, and stages a rank."""


class PipelineStrategy(Together):
    """The loss is known where the last stage is, and told to the others of its pipeline."""

    cut = True

    def __init__(self, mesh: Mesh, schedule: str) -> None:
        super().__init__(mesh)
        self.averaged = 1
        self.schedule, each = SCHEDULES[schedule]
        self.group = mesh.all.get_group("pipeline")
        self.size, self.place = mesh.axes.pipeline, mesh.place("pipeline")
        self.micro_batches = self.size * each
        self.v_shaped = schedule == "zbv"
        self.batches: Sequence[Any] = ()
        self.of: Callable[[Any, Any], Tensor]

    def owner(self, stage: int) -> int:
        """The place in the pipeline where a stage is."""
        back = self.v_shaped and stage >= self.size
        return 2 * self.size - 1 - stage if back else stage % self.size

    def rank_of(self, stage: int) -> int:
        """The process where a stage is."""
        return dist.get_global_rank(self.group, self.owner(stage))

    def prepare(self, model: Any, around: Around) -> nn.Module:
        """Keep the layers of this rank's stages; those of the others have names and shapes only.

        Raises:
            UserError: a model whose layers cannot be cut.
        """
        self.model, self.around, self.layers = model.to(self.device), around, Layers(model)
        costs: list[Any] = [self.layers.costs() if self.rank == 0 else None]
        dist.broadcast_object_list(costs, src=0)
        cuts = cut(costs[0], self.micro_batches)
        where: dict[int, int] = {}
        for stage, part in enumerate(cuts):
            for module in self.layers.modules(*part):
                where |= {id(p): stage for p in module.parameters() if id(p) not in where}
        self.home = {name: where[id(p)] for name, p in model.named_parameters()}
        """The stage of each parameter; of a tied head it is the first."""
        mine = [stage for stage in range(len(cuts)) if self.owner(stage) == self.place]
        kept = {id(module) for stage in mine for module in self.layers.modules(*cuts[stage])}
        for module in self.layers.modules(0, self.layers.last):
            if id(module) not in kept:
                module.to("meta")
        if self.layers.tied:
            self._tie([id(self.layers.embedding) in kept, id(self.layers.head) in kept])
        leave_file(model)
        self.stages = {stage: _Stage(self, *cuts[stage]) for stage in mine}
        return model  # type: ignore[no-any-return]

    def _tie(self, here: list[bool]) -> None:
        """The embedding and the head are one weight again."""
        one, other = (self.layers.embedding, self.layers.head) if here[0] else (self.layers.head, self.layers.embedding)
        other.weight = one.weight

    # ---- passes ----------------------------------------------------------------------------------------------------

    def forward_backward(
        self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf
    ) -> tuple[float, dict[str, float]]:
        """All micro-batches through all stages, by the schedule."""
        sums = Sums()

        def of(model: Any, batch: Any) -> Tensor:
            loss, found = loss_of(model, batch)
            sums.add({"": loss, **found})
            return loss

        self.mesh.begins(f"the passes of {len(batches)} micro-batches through its stages")
        self.batches, self.of = [batch.to(self.device) for batch in batches], of
        stages = [self._stage(number) for number in self.stages]
        count = len(batches)
        settings = {"n_microbatches": count, "loss_fn": lambda loss, _: loss, "scale_grads": False}
        schedule = self.schedule(stages[0] if self.micro_batches == self.size else stages, **settings)
        numbers = torch.arange(count, device=self.device)
        first, last = 0 in self.stages, self.micro_batches - 1 in self.stages
        schedule.step(
            *([numbers] if first else []),
            number=numbers,
            target=numbers if last else None,
            losses=[] if last else None,
            return_outputs=False,
        )
        self.batches = ()
        self._add_up(model)
        total = self._told(sums)
        return total.pop(""), total

    def _stage(self, number: int) -> pipelining.PipelineStage:
        """A stage as torch knows it, with the shapes of this step."""
        tokens = max(batch.inputs["input_ids"].numel() for batch in self.batches)
        hidden = torch.empty(tokens, self.layers.width, dtype=self.layers.dtype, device="meta", requires_grad=True)
        first, last = number == 0, number == self.micro_batches - 1
        given = torch.empty(1, dtype=torch.long, device="meta") if first else hidden
        made = torch.empty((), device="meta", requires_grad=True) if last else hidden
        return pipelining.PipelineStage(
            self.stages[number], number, self.micro_batches, self.device, given, made, group=self.group
        )

    def _add_up(self, model: nn.Module) -> None:
        """The gradient of a tied weight over its two ends, and all of them over copies."""
        weight = self.layers.embedding.weight
        if self.layers.tied and weight.requires_grad:
            nothing = torch.zeros(weight.shape, device=self.device, dtype=weight.dtype)
            dist.all_reduce(nothing if weight.grad is None else weight.grad, group=self.group)
        if self.shares > 1:
            add_up([p.grad for p in model.parameters() if p.grad is not None], self.mesh.all.get_group("data"))

    def _told(self, sums: Sums) -> dict[str, float]:
        """What the last stage has found, over all shares."""
        found = [sums.found]
        dist.broadcast_object_list(found, src=self.rank_of(self.micro_batches - 1), group=self.group)
        sums.found = found[0]
        return sums.over(self.sum)

    def measure(self, model: nn.Module, batches: Iterable[Movable], of: Of) -> dict[str, float]:
        """One micro-batch behind the other; a stage is free for the next as soon as it has sent on."""
        sums = Sums()

        def noted(model: Any, batch: Any) -> Tensor:
            sums.add(of(model, batch))
            return torch.zeros(())

        self.of = noted
        for batch in batches:
            self.batches = [batch.to(self.device)]
            with torch.no_grad():
                self._through()
        self.batches = ()
        return self._told(sums)

    def _through(self) -> None:
        """The micro-batch through the stages that are here."""
        number, tokens = torch.zeros(1, dtype=torch.long), self.batches[0].inputs["input_ids"].numel()
        hidden = torch.empty(tokens, self.layers.width, dtype=self.layers.dtype, device=self.device)
        for stage, module in self.stages.items():
            before, behind = stage - 1, stage + 1
            if stage and self.owner(before) != self.place:
                dist.recv(hidden, src=self.rank_of(before), group=self.group)
            hidden = module(hidden, number=number)
            if behind < self.micro_batches and self.owner(behind) != self.place:
                dist.send(hidden.contiguous(), dst=self.rank_of(behind), group=self.group)

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """By the norm over all stages; a tied weight counts once."""
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        total = squares([g for name, g in gradients.items() if self.home[name] in self.stages], device=self.device)
        dist.all_reduce(total, group=self.group)
        return self.scale([*gradients.values()], float(total.sqrt()), max_norm)

    # ---- whole models ----------------------------------------------------------------------------------------------

    @contextmanager
    def gathered(self, model: nn.Module, *, frozen: bool, write: bool = False) -> Iterator[None]:
        """What this rank has not, filled in for as long; where it is written, every rank keeps its own of it."""
        lent: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            if not (parameter.requires_grad or frozen):
                continue
            found = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device if not write else "cpu")
            if not write:
                found = found if parameter.is_meta else parameter.detach()
                dist.broadcast(found, src=self.rank_of(self.home[name]), group=self.group)
            if parameter.is_meta and (write or self.rank == 0):
                lent[parameter] = nn.Parameter(found.cpu(), requires_grad=parameter.requires_grad)
        with swapped(model, lent):
            yield


class _Stage(nn.Module):
    """Some of the layers; the first begins with ids, the last ends with what is made of the answer."""

    def __init__(self, strategy: PipelineStrategy, start: int, end: int) -> None:
        super().__init__()
        self.part = start, end
        self.held = nn.ModuleList(strategy.layers.modules(start, end))
        self._strategy = [strategy]  # in a list, so that it is no part of the module

    def forward(self, given: Tensor, number: Tensor) -> Tensor:
        """Hidden states `[tokens, width]` to the same behind these layers, or to a loss `[]`."""
        (strategy,) = self._strategy
        layers, batch = strategy.layers, strategy.batches[int(number)]
        inputs = dict(batch.inputs)
        rows, width = inputs["input_ids"].shape
        if self.part[0]:
            inputs.pop("input_ids")
            inputs["inputs_embeds"] = given[: rows * width].view(rows, width, -1)
        with layers.only(*self.part):
            if self.part[1] == layers.last:
                return strategy.of(_From(strategy.model, inputs), batch)
            with strategy.around(strategy.model, batch):
                hidden = layers.holder(use_cache=False, **inputs).last_hidden_state
        hidden = hidden.reshape(rows * width, -1).to(layers.dtype)
        longest = max(b.inputs["input_ids"].numel() for b in strategy.batches)
        hidden = nn.functional.pad(hidden, (0, 0, 0, longest - rows * width))
        if torch.is_grad_enabled() and not hidden.requires_grad:  # nothing is trained so far down
            hidden.requires_grad_()
        return hidden


class _From:
    """A model that goes on from hidden states, whatever ids it is called with."""

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        self.model, self.inputs, self.training = model, inputs, model.training

    def __call__(self, *, input_ids: Tensor, **more: Any) -> Any:
        """The model's answer."""
        return self.model(**more | dict(self.inputs))

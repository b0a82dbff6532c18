"""Tensor parallel: every rank holds a part of each layer, and all see the same rows (arXiv:1909.08053).

Which matrices are cut along their rows and which along their columns is said by the model's own plan (transformers'
`tp_plan`) and done by torch's parallel styles. The adapter of a matrix is cut beside it: what reads the whole input
(LoRA's A of a matrix that is cut by rows of its output) stays whole, and so does what writes the whole output. The head
and the embeddings stay whole. Copies of the cut model may share the rows (`data`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from luthier.distributed.mesh import Axes, Mesh
from luthier.distributed.strategy import Around, LossOf, Movable, local
from luthier.distributed.together import Cut, Size, Together, add_up, leave_file
from luthier.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from luthier.config import RunConfig

COLUMN, ROW, ALONE = "colwise", "rowwise", "replicated_with_grad_allreduce"
"""Styles of plans: a part of the outputs, a part of the inputs, whole but used on a part."""


class TensorParallel(Cut):
    """Every process holds a part of each layer; start with `luthier train CONFIG --devices N` or torchrun."""

    type: Literal["tensor"] = "tensor"
    tensor: Size = 0
    """Parts of a layer; 0: as many as there are processes. It must divide the heads of attention."""

    def require(self, config: RunConfig) -> None:
        """Of the adapters those that belong to a matrix."""
        super().require(config)
        self.allow(config, "adapter", ("lora", "full", "freeze"), "parallel: fsdp")
        self.require_plain_lora(config)
        if getattr(config.adapter, "use_dora", False):
            raise UserError("parallel: tensor cannot measure the norms of whole columns; write adapter.use_dora: false")

    def open(self) -> TensorStrategy:
        """Join the process group that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun, or the number of processes does not fit.
        """
        return TensorStrategy(self.join(Axes(data=0, tensor=self.tensor) if self.tensor else Axes(tensor=0)))


class TensorStrategy(Together):
    """Gradients of whole weights are equal on the ranks of a copy, but for those that see a part of the heads."""

    cut = True

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self.averaged = 1
        self.partial: list[nn.Parameter] = []

    def prepare(self, model: Any, around: Around) -> nn.Module:
        """Cut the model in its place.

        Raises:
            UserError: it has no plan, or one that this cannot follow, or its sizes cannot be divided.
        """
        from luthier.distributed.layers import base_of

        base = base_of(model.to(self.device))
        plan = base.tp_plan or {}
        if not plan:
            raise UserError(f"parallel: tensor: {type(base).__name__} says no plan for it; write parallel: fsdp")
        self._require_divisible(base)
        patterns = [(re.compile(re.escape(name).replace(r"\*", r"\d+")), style) for name, style in plan.items()]
        ends = (base.get_input_embeddings(), base.get_output_embeddings())
        for name, module in [(name, module) for name, module in base.named_modules() if module not in ends]:
            style = next((style for pattern, style in patterns if pattern.fullmatch(name)), None)
            if style == ALONE:
                self.partial += module.parameters()
            elif style in (COLUMN, ROW):
                self._cut(module, style)
            elif style is not None:
                raise UserError(f"parallel: tensor: the plan of {type(base).__name__} wants {name} {style}; write fsdp")
        leave_file(model)
        return model  # type: ignore[no-any-return]

    def _require_divisible(self, base: Any) -> None:
        sizes, parts = base.config.get_text_config(), self.mesh.axes.tensor
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            count = getattr(sizes, name, None)
            if count is not None and count % parts:
                raise UserError(
                    f"parallel.tensor: {parts} parts of {count} ({name} of {type(base).__name__}) are not equal; "
                    "take a number that divides it, and share the rows by the other processes"
                )

    def _cut(self, module: Any, style: str) -> None:
        """A matrix, and beside it its adapter."""
        from peft.tuners.lora import LoraLayer
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        parallel = ColwiseParallel() if style == COLUMN else RowwiseParallel()
        matrices = [module]
        if isinstance(module, LoraLayer):
            matrices = [module.base_layer, *(module.lora_B if style == COLUMN else module.lora_A).values()]
        for matrix in matrices:
            parallelize_module(matrix, self.mesh.all["tensor"], parallel)

    def forward_backward(
        self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf
    ) -> tuple[float, dict[str, float]]:
        """Adds up what ranks know of the same weights in part."""
        found = super().forward_backward(model, batches, loss_of)
        add_up([p.grad for p in self.partial if p.grad is not None], self.mesh.all.get_group("tensor"))
        if self.shares > 1:
            gradients = [local(p.grad) for p in model.parameters() if p.grad is not None]
            add_up(gradients, self.mesh.all.get_group("data"))
        return found

"""Rows in parts, exchanged for heads in attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from luthier.distributed.fsdp import FsdpStrategy
from luthier.distributed.layers import base_of, layers_of
from luthier.distributed.mesh import Mesh
from luthier.distributed.strategy import Around, LossOf, Movable
from luthier.distributed.together import add_up
from luthier.errors import UserError

NAME = "luthier-sequence"
"""Under which the attention is registered."""


class SequenceStrategy(FsdpStrategy):
    """Every rank of a row has the same loss, and each a part of its gradient."""

    answers = False

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self.parts, self.place = mesh.axes.sequence, mesh.place("sequence")
        self.group = mesh.all.get_group("sequence")
        self.cut = self.saves_pieces = mesh.axes.shard > 1
        self.averaged = self.shares if self.cut else 1 / self.parts

    def prepare(self, model: Any, around: Around) -> nn.Module:
        """Cut the rows where the layers begin, and put them together behind.

        Raises:
            UserError: the heads cannot be divided, or its attention is one of its own.
        """
        base = base_of(model.to(self.device))
        sizes = base.config.get_text_config()
        for name in ("num_attention_heads", "num_key_value_heads"):
            count = getattr(sizes, name, self.parts)
            if count % self.parts:
                raise UserError(
                    f"parallel.sequence: {self.parts} parts of {count} heads ({name} of {type(base).__name__}) are not "
                    "equal; take a number that divides it"
                )
        holder, _ = layers_of(base)
        self._exchange(base)
        holder.register_forward_pre_hook(self._part, with_kwargs=True)
        holder.register_forward_hook(self._together, with_kwargs=True)
        return super().prepare(model, around) if self.cut else model

    def axes(self) -> Any:
        """All parts of all rows hold pieces of one copy."""
        pieces = self.mesh.all["shard", "sequence"]._flatten("pieces")
        return self.mesh.all["data", "pieces"] if self.mesh.axes.data > 1 else pieces

    def forward_backward(
        self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf
    ) -> tuple[float, dict[str, float]]:
        """Adds up what ranks know of the same weights in part."""
        found = super().forward_backward(model, batches, loss_of)
        if not self.cut:
            add_up([p.grad for p in model.parameters() if p.grad is not None], None)
        return found

    # ---- parts of rows ---------------------------------------------------------------------------------------------

    def _part(self, _: nn.Module, args: Any, inputs: dict[str, Any]) -> Any:
        """This rank's part of ids and positions, all of one length; answers are drawn from whole rows."""
        if inputs.get("use_cache") is not False:
            return None
        length = inputs["input_ids"].shape[1]
        mine = {"whole_length": length}
        for name in ("input_ids", "position_ids"):
            filled = nn.functional.pad(inputs[name], (0, -length % self.parts))
            mine[name] = filled.chunk(self.parts, dim=1)[self.place]
        return args, inputs | mine

    def _together(self, _: nn.Module, __: Any, inputs: dict[str, Any], output: Any) -> Any:
        """The whole rows; each rank is given a part of the gradient of each part."""
        if "whole_length" in inputs:
            parts = self._sent(output.last_hidden_state.expand(self.parts, -1, -1, -1))
            output.last_hidden_state = torch.cat(parts.unbind(), dim=1)[:, : inputs["whole_length"]]
        return output

    def _exchange(self, base: Any) -> None:
        """Register attention between exchanges, around the model's own."""
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        kind = base.config.get_text_config()._attn_implementation
        if kind == "eager":
            raise UserError(f"parallel: sequence: {type(base).__name__} has attention of its own; write parallel: fsdp")
        attend, mask = ALL_ATTENTION_FUNCTIONS[kind], ALL_MASK_ATTENTION_FUNCTIONS[kind]

        def exchanged(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
            whole_length: int | None = None, **more: Any,
        ) -> Any:  # fmt: skip
            if whole_length is None:
                return attend(module, query, key, value, attention_mask, **more)
            heads = (self._to_heads(tensor)[:, :, :whole_length] for tensor in (query, key, value))
            found, _ = attend(module, *heads, None, **more)
            return self._to_parts(nn.functional.pad(found, (0, 0, 0, 0, 0, -whole_length % self.parts))), None

        AttentionInterface.register(NAME, exchanged)
        AttentionMaskInterface.register(NAME, mask)
        base.set_attn_implementation(NAME)

    def _to_heads(self, tensor: Tensor) -> Tensor:
        """`[B, H, T / n, D]` to `[B, H / n, T, D]`."""
        rows, heads, length, width = tensor.shape
        pieces = self._sent(tensor.view(rows, self.parts, heads // self.parts, length, width).transpose(0, 1))
        return pieces.permute(1, 2, 0, 3, 4).reshape(rows, heads // self.parts, self.parts * length, width)

    def _to_parts(self, tensor: Tensor) -> Tensor:
        """`[B, T, H / n, D]` to `[B, T / n, H, D]`."""
        rows, length, heads, width = tensor.shape
        pieces = self._sent(tensor.view(rows, self.parts, length // self.parts, heads, width).transpose(0, 1))
        return pieces.permute(1, 2, 0, 3, 4).reshape(rows, length // self.parts, self.parts * heads, width)

    def _sent(self, pieces: Tensor) -> Tensor:
        """The n-th piece to the n-th rank; returns those that came, in the order of ranks."""
        sent: Tensor = _Sent.apply(pieces.contiguous(), self.group)  # type: ignore[no-untyped-call]
        return sent


class _Sent(torch.autograd.Function):
    """Comes back when all is there: what computes with pointers (`kernels.native`) cannot wait for tensors to come."""

    @staticmethod
    def forward(ctx: Any, pieces: Tensor, group: Any) -> Tensor:
        ctx.group, came = group, torch.empty_like(pieces)
        dist.all_to_all_single(came, pieces, group=group)
        return came

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        return _Sent.apply(slopes[0].contiguous(), ctx.group), None  # type: ignore[no-untyped-call]

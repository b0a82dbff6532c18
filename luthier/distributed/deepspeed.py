"""ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) by DeepSpeed: the only file that knows it.

Stage 1 cuts what the optimizer keeps, 2 the gradients besides, 3 the weights besides. DeepSpeed accumulates, averages,
clips and steps by itself; here it is told when, and gradients are made sums again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from luthier.distributed.mesh import Axes, Mesh
from luthier.distributed.strategy import Around, Found, LossOf, Movable, Of
from luthier.distributed.together import Cut, Together
from luthier.errors import UserError
from luthier.supplies import library

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.config import RunConfig


class DeepSpeed(Cut):
    """DeepSpeed's ZeRO over all processes; start with `luthier train CONFIG --devices N` or torchrun."""

    type: Literal["deepspeed"] = "deepspeed"
    stage: Literal[1, 2, 3] = 2
    """What is cut: the optimizer's memory, gradients too, weights too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lies in the CPU's memory; `all` needs stage 3."""

    def require(self, config: RunConfig) -> None:
        """Needs deepspeed, and torch's AdamW."""
        super().require(config)
        if self.offload == "all" and self.stage != 3:
            raise UserError("parallel.offload: all needs weights that are cut; write stage: 3, or offload: optimizer")
        self.allow(config.train, "optimizer", ("adamw",), "parallel: fsdp")
        self.allow(config, "objective", ("sft", "pretrain", "dpo", "orpo", "simpo", "cpo"), "parallel: fsdp")
        library("deepspeed", "parallel: deepspeed", "deepspeed")

    def open(self) -> ZeroStrategy:
        """Join the process group that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun.
        """
        return ZeroStrategy(self.join(Axes(data=0)), self)


class ZeroStrategy(Together):
    """The model and the loss are one module, since weights are there only while a module of theirs runs."""

    def __init__(self, mesh: Mesh, settings: DeepSpeed) -> None:
        super().__init__(mesh)
        self.settings, self.cut = settings, settings.stage == 3
        self.saves_pieces = False  # what the optimizer is asked for is whole
        self.engine: Any = None

    def prepare(self, model: nn.Module, around: Around) -> nn.Module:
        """The engine is made when there is an optimizer."""
        return model

    def adopt(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Cut the model, and the optimizer's memory."""
        import deepspeed

        width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        sizes = {"reduce_bucket_size": width**2}  # its own defaults are as large as a model
        if self.settings.stage == 3:
            sizes |= {"stage3_prefetch_bucket_size": width**2, "stage3_param_persistence_threshold": 10 * width}
        zero: dict[str, Any] = {"stage": self.settings.stage, **sizes}
        if self.settings.offload != "none":
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.settings.offload == "all":
            zero["offload_param"] = {"device": "cpu"}
        config = {
            "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "zero_optimization": zero,
            "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "steps_per_print": 10**9,
        }  # fmt: skip
        whole = _whole(model)
        self.engine, inner, _, _ = deepspeed.initialize(model=whole, optimizer=optimizer, config=config)
        if self.settings.stage == 3:
            head = model.get_output_embeddings()  # type: ignore[operator]
            deepspeed.zero.register_external_parameter(whole, head.weight)
        return _optimizer(self, inner, model)

    def go_through(self, model: nn.Module, batch: Movable, loss_of: LossOf, *, last: bool) -> Found:
        """DeepSpeed is told which micro-batch is the last."""
        self.engine.set_gradient_accumulation_boundary(last)
        loss, found = self.engine(loss_of, batch)
        self.engine.backward(loss * self.averaged, scale_wrt_gas=False)
        return {"": loss, **found}

    def measure(self, model: nn.Module, batches: Iterable[Movable], of: Of) -> dict[str, float]:
        """Through the engine's module."""
        return super().measure(model, batches, lambda _, batch: self.engine.module(of, batch))

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """DeepSpeed clips when it steps."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        zero = self.engine.optimizer
        zero.clip_grad = max_norm or 0.0
        return float(
            combine_grad_norm_groups(zero._get_norm_groups()) if self.settings.stage == 3 else zero.scaled_global_norm()
        )

    @contextmanager
    def gathered(self, model: nn.Module, *, frozen: bool, write: bool = False) -> Iterator[None]:
        """Whole weights for as long; what is written reaches the pieces, and those that the optimizer holds."""
        import deepspeed

        chosen = [p for p in model.parameters() if p.requires_grad or frozen]
        cut = [p for p in chosen if hasattr(p, "ds_id")]
        with deepspeed.zero.GatheredParameters(cut, modifier_rank=0 if write else None, enabled=bool(cut)):
            yield
        if write:
            self.engine.optimizer.refresh_fp32_params()


def _whole(model: nn.Module) -> nn.Module:
    """The model and whatever is made of its answer, in one pass."""
    from torch import nn

    class Whole(nn.Module):
        """Calls a function with the model inside."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, of: Any, batch: Any) -> Any:
            """What the function makes of a micro-batch."""
            return of(self.inner, batch)

    return Whole()


def _optimizer(strategy: ZeroStrategy, zero: Any, model: nn.Module) -> torch.optim.Optimizer:
    """DeepSpeed's optimizer as the loop and checkpoints know one."""
    import torch

    class Zero(torch.optim.Optimizer):
        """Its groups are those of the optimizer inside; its state is that of each parameter, put together if asked."""

        def __init__(self) -> None:
            super().__init__(zero.optimizer.param_groups, {})
            self.param_groups = zero.optimizer.param_groups
            flats = [flat for group in self.param_groups for flat in group["params"]]
            for flat in getattr(zero, "fp32_partitioned_groups_flat", flats):  # of stage 3, which has them elsewhere
                means = {name: torch.zeros_like(flat.detach()) for name in _Entries.NAMES}
                # there from the start, so that a checkpoint has where to go
                zero.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **means}
            if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
                zero._lazy_init_hp_params_optimizer_state()
            trained = [p for p in model.parameters() if p.requires_grad]
            self.state = {p: _Entries(zero, p) for p in trained}  # type: ignore[assignment]

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """DeepSpeed's own."""
            strategy.engine.step()

        def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002
            """Also what is averaged already."""
            zero.zero_grad(set_to_none=set_to_none)
            for key in getattr(zero, "averaged_gradients", {}):
                zero.averaged_gradients[key] = None

    return Zero()


class _Entries(MutableMapping[str, Any]):
    """What the optimizer keeps of one parameter; all processes ask together."""

    NAMES = ("exp_avg", "exp_avg_sq")

    def __init__(self, zero: Any, parameter: nn.Parameter) -> None:
        self.zero, self.parameter = zero, parameter

    def __getitem__(self, name: str) -> Any:
        from deepspeed.utils import safe_get_full_optimizer_state

        if name == "step":
            return next(iter(self.zero.optimizer.state.values()))["step"]
        return safe_get_full_optimizer_state(self.parameter, name)

    def __setitem__(self, name: str, value: Any) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        if name == "step":
            for state in self.zero.optimizer.state.values():
                state["step"].copy_(value)
        elif hasattr(self.parameter, "ds_id"):  # deepspeed's own way asks for sizes that the processes divide
            piece, _ = self.zero._get_fp32_opt_state_partition(
                self.parameter, release_swap_buffers=False, optim_state_key=name
            )
            start = piece.numel() * self.zero._get_param_partition_rank(self.parameter)
            mine = value.flatten()[start : start + piece.numel()]
            piece[: mine.numel()].copy_(mine)
        else:
            safe_set_full_optimizer_state(self.parameter, value, name)

    def __delitem__(self, name: str) -> None:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("step", *self.NAMES))

    def __len__(self) -> int:
        return 1 + len(self.NAMES)

"""Muon for hidden matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from luthier.errors import UserError
from luthier.train.optim.base import Beta, Betas, Group, Optimizer, OptimizerSettings, Positive


class Muon(OptimizerSettings):
    """Orthogonal updates of hidden matrices (Jordan et al. 2024), AdamW for embeddings, head, norms and biases.

    https://kellerjordan.github.io/posts/muon; torch's own. By default each update is given the size of one of AdamW
    (Liu et al. 2025, arXiv:2502.16982), so that one learning rate and one decay serve both.
    """

    type: Literal["muon"] = "muon"
    momentum: Beta = 0.95
    """Decay of the running mean of gradients."""
    nesterov: bool = True
    """Look one step ahead in the running mean."""
    ns_steps: Annotated[int, Field(gt=0, lt=100)] = 5
    """Newton-Schulz steps towards the nearest orthogonal matrix."""
    adjust_lr_fn: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """Size of an update: as AdamW's, or as in the first publication, which takes a rate of its own."""
    betas: Betas = (0.9, 0.999)
    """Of AdamW."""
    eps: Positive = 1e-8
    """Of AdamW."""

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """Both optimizers behind one face.

        Raises:
            UserError: no matrix is trained.
        """
        import torch

        from luthier.train.optim.wrapped import Wrapped

        hidden = [group.options() for group in groups if group.hidden]
        rest = [group.options() for group in groups if not group.hidden]
        if not hidden:
            raise UserError("train.optimizer: muon is for matrices, and this adapter trains none; write adamw")
        muon = torch.optim.Muon(
            hidden, lr=0.0, **self.model_dump(include={"momentum", "nesterov", "ns_steps", "adjust_lr_fn"})
        )
        adamw = [torch.optim.AdamW(rest, lr=0.0, betas=self.betas, eps=self.eps, fused=True)] if rest else []
        return Wrapped(muon, *adamw)

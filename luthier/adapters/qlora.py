"""QLoRA: LoRA on a base whose weights are kept in 4 or 8 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from luthier.adapters.lora import Lora
from luthier.adapters.lora_init import DISPLACED


class QLora(Lora):
    """LoRA on a base that bitsandbytes quantises as it is loaded, on CPUs too."""

    type: Literal["qlora"] = "qlora"
    bits: Literal[4, 8] = 4
    """Bits of each base weight: 4 (nf4, its scales quantised again) or 8."""

    @model_validator(mode="after")
    def _quantised(self) -> Self:
        if self.init_lora_weights in DISPLACED:
            raise ValueError(
                f"init_lora_weights: {self.init_lora_weights} takes weights apart that a quantised base no longer has; "
                "write default, eva or orthogonal"
            )
        return self

    @property
    def base_bits(self) -> int | None:
        """As `bits` says."""
        return self.bits

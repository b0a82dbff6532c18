"""What is trained under which strategy, to be held against one process; docs/distributed.md is made from it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"type": "ddp"},
    "fsdp": {"type": "fsdp"},
    "fsdp, offload": {"type": "fsdp", "cpu_offload": True},
    "tensor": {"type": "tensor"},
    "pipeline": {"type": "pipeline"},
    "interleaved": {"type": "pipeline", "schedule": "interleaved"},
    "zero-bubble": {"type": "pipeline", "schedule": "zero-bubble"},
    "zbv": {"type": "pipeline", "schedule": "zbv"},
    "sequence": {"type": "sequence"},
    "deepspeed 2": {"type": "deepspeed", "stage": 2},
    "deepspeed 3": {"type": "deepspeed", "stage": 3},
    "deepspeed 2, offload": {"type": "deepspeed", "stage": 2, "offload": "optimizer"},
    "deepspeed 3, offload": {"type": "deepspeed", "stage": 3, "offload": "all"},
}


def there(strategy: Mapping[str, Any] | None) -> bool:
    """Whether its library is installed."""
    needed = "deepspeed" if strategy is not None and strategy["type"] == "deepspeed" else "torch"
    return importlib.util.find_spec(needed) is not None


INSTALLED = {name: strategy for name, strategy in STRATEGIES.items() if there(strategy)}


COMBINED: dict[str, dict[str, Any]] = {
    "fsdp x data": {"type": "fsdp", "shard": 2},
    "tensor x data": {"type": "tensor", "tensor": 2},
    "pipeline x data": {"type": "pipeline", "pipeline": 2},
    "sequence x shard": {"type": "sequence", "sequence": 2, "shard": 2},
}
CASES: dict[str, Any] = {
    "lora": ("llama", "lora", "sft", {"packing": True}, {"micro_batch_tokens": 150, "learning_rate": 1e-3}),
    "full": ("qwen3", "full", "dpo", {"packing": False}, {"micro_batch_size": 2, "learning_rate": 1e-4}),
}
MAIN = ("lora", "full")
REWARD = {"type": "regex", "pattern": "[aeiou]"}
PACKED, SLOWLY = {"packing": True}, {"micro_batch_tokens": 150, "learning_rate": 1e-4}
ALL = ["ddp", "fsdp", "tensor", "pipeline", "sequence", "deepspeed 2"]
WHOLE = ["ddp"]
"""Where each process holds the whole model."""
EVERY_PAIR: dict[str, list[str]] = {
    "freeze": ALL,
    "tied": ALL,
    "half": ALL,
    "pissa": ["fsdp", "sequence", "deepspeed 2", "deepspeed 3"],
    "rank auto": ALL,
    "dora": ["fsdp", "pipeline", "sequence", "deepspeed 2", "deepspeed 3"],
    "whole modules": ALL,
    "recomputed": ["fsdp", "tensor", "pipeline", "zero-bubble", "sequence", "deepspeed 3"],
    "label smoothing": ["fsdp", "tensor", "pipeline"],
    "bottleneck": ["ddp", "fsdp", "pipeline", "sequence", "deepspeed 2"],
    "ia3": ["ddp", "fsdp", "pipeline", "sequence", "deepspeed 2"],
    "vera": ["ddp", "fsdp", "sequence", "deepspeed 2"],
    "lion": ["ddp", "fsdp", "tensor", "pipeline", "sequence"],
    "schedule-free": ["ddp", "fsdp", "tensor", "sequence"],
    "pretrain": ALL,
    "kto": ["ddp", "fsdp", "tensor", "pipeline", "sequence"],
    "orpo": ALL,
    "simpo": ALL,
    "cpo": ALL,
    "distill": ["ddp", "fsdp", "tensor", "pipeline"],
    "reward": ["ddp", "fsdp", "tensor"],
    **dict.fromkeys(("adalora", "prefix", "prompt", "p-tuning", "oft", "qlora"), WHOLE),
    **dict.fromkeys(("adamw-8bit", "adafactor", "muon", "galore", "apollo"), WHOLE),
    **dict.fromkeys(("grpo", "rloo", "ppo"), WHOLE),
}
"""What else each strategy takes."""
USUAL = {
    "tied": ["fsdp", "tensor", "pipeline"],
    "half": ["fsdp"],
    "rank auto": ["fsdp"],
    "dora": ["sequence"],
    "whole modules": ["tensor", "pipeline"],
    "recomputed": ["fsdp", "zero-bubble"],
    "label smoothing": ["pipeline"],
    "bottleneck": ["pipeline"],
    "ia3": ["fsdp"],
    "vera": ["sequence"],
    "pissa": ["fsdp"],
    "freeze": ["tensor"],
    "lion": ["pipeline"],
    "schedule-free": ["tensor"],
    "kto": ["fsdp", "sequence"],
    **dict.fromkeys(("adalora", "prefix", "grpo"), WHOLE),
    "distill": ["pipeline"],
    "reward": ["fsdp"],
    "simpo": ["tensor"],
}
"""Those that are always tried; all pairs take a quarter of an hour."""
TOGETHER = EVERY_PAIR if os.environ.get("LUTHIER_EVERY_PAIR") else USUAL
CASES |= {
    "freeze": ("llama", {"type": "freeze", "last_layers": 2}, "sft", PACKED, SLOWLY),
    **{
        kind: ("llama", kind, "sft", PACKED, SLOWLY | {"learning_rate": 1e-3}) for kind in ("bottleneck", "ia3", "vera")
    },
    "lion": ("llama", "lora", "sft", PACKED, SLOWLY | {"optimizer": "lion"}),
    "schedule-free": ("llama", "lora", "sft", PACKED, SLOWLY | {"optimizer": "schedule-free", "schedule": "constant"}),
    "tied": ("llama", "full", "sft", PACKED, SLOWLY),
    "half": ("half", "full", "sft", PACKED, SLOWLY),
    "pissa": ("llama", {"type": "lora", "init_lora_weights": "pissa"}, "sft", PACKED, SLOWLY),
    "rank auto": ("llama", {"type": "lora", "rank": "auto", "rank_budget": 2}, "sft", PACKED, SLOWLY),
    "dora": ("llama", {"type": "lora", "use_dora": True}, "sft", PACKED, SLOWLY | {"learning_rate": 1e-3}),
    "whole modules": ("qwen3", {"type": "lora", "modules_to_save": ["lm_head"]}, "sft", PACKED, SLOWLY),
    "recomputed": ("llama", "lora", "sft", PACKED, SLOWLY | {"gradient_checkpointing": True}),
    "label smoothing": ("llama", "lora", {"type": "sft", "label_smoothing": 0.1}, PACKED, SLOWLY),
    "adalora": (
        "llama",
        {"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 1, "alpha": 40},
        "sft",
        PACKED,
        SLOWLY,
    ),
    **{
        kind: ("llama", {"type": kind, "num_virtual_tokens": 4}, "sft", {"packing": False}, SLOWLY)
        for kind in ("prefix", "prompt", "p-tuning")
    },
    "oft": ("llama", {"type": "oft", "oft_block_size": 8}, "sft", PACKED, SLOWLY),
    "qlora": ("llama", {"type": "qlora", "bits": 4}, "sft", PACKED, SLOWLY),
    **{kind: ("llama", "lora", "sft", PACKED, SLOWLY | {"optimizer": kind}) for kind in ("adamw-8bit", "adafactor")},
    **{kind: ("llama", "full", "sft", PACKED, SLOWLY | {"optimizer": kind}) for kind in ("muon", "galore", "apollo")},
    **{
        kind: (
            "llama",
            "lora",
            {"type": kind, "rewards": [REWARD], "max_new_tokens": 6, "samples": 4},
            {},
            {"batch_size": 4, "learning_rate": 1e-3},
        )
        for kind in ("grpo", "rloo")
    },
    "ppo": (
        "llama",
        "lora",
        {"type": "ppo", "rewards": [REWARD], "max_new_tokens": 6},
        {},
        {"batch_size": 4, "learning_rate": 1e-3},
    ),
    "pretrain": ("llama", "lora", "pretrain", PACKED, SLOWLY),
    "orpo": ("llama", "lora", "orpo", PACKED, SLOWLY),
    "cpo": ("llama", "lora", "cpo", PACKED, SLOWLY),
    "kto": ("llama", "lora", "kto", PACKED, SLOWLY),
    "distill": ("llama", "lora", {"type": "distill", "teacher": "qwen3"}, PACKED, SLOWLY),
    "reward": ("llama", "lora", "reward", PACKED, SLOWLY),
    "simpo": ("llama", "lora", "simpo", PACKED, SLOWLY),
}
FACTORS: dict[str, dict[str, Any]] = {
    **{f"padded {size}": {"micro_batch_size": size} for size in (1, 2, 3, 6)},
    **{f"packed {tokens}": {"micro_batch_tokens": tokens} for tokens in (60, 150, 2000)},
}
"""Ways to cut a step of six rows; over processes as well."""
CASES |= {
    cut: ("llama", "full", "sft", {"packing": "tokens" in str(train)}, SLOWLY | train | {"max_steps": 1})
    for cut, train in FACTORS.items()
}
ROWS = {"kto": "kto"} | dict.fromkeys(("reward", "simpo", "dpo", "orpo", "cpo"), "dpo")
ROWS |= dict.fromkeys(("grpo", "rloo", "ppo"), "grpo")
"""What an objective learns from, where it is not conversations."""
CHAINS = {
    "fsdp, one process, fsdp": ({"type": "fsdp"}, None, {"type": "fsdp"}),
    "fsdp, ddp": ({"type": "fsdp"}, {"type": "ddp"}),
    "ddp, pipeline": ({"type": "ddp"}, {"type": "pipeline"}),
    "pipeline, tensor": ({"type": "pipeline"}, {"type": "tensor"}),
    "tensor, sequence": ({"type": "tensor"}, {"type": "sequence"}),
    "deepspeed 2, deepspeed 3, one process": (STRATEGIES["deepspeed 2"], STRATEGIES["deepspeed 3"], None),
    "fsdp, deepspeed 2, fsdp": ({"type": "fsdp"}, STRATEGIES["deepspeed 2"], {"type": "fsdp"}),
    "tensor, deepspeed 3": ({"type": "tensor"}, STRATEGIES["deepspeed 3"]),
}
CHAINS = {name: chain for name, chain in CHAINS.items() if all(map(there, chain))}
"""What trains the steps up to 2, up to 4 and to the end; None is one process."""


def kind_of(part: Any) -> str:
    """Of a part of a config."""
    return str(part["type"]) if isinstance(part, dict) else str(part)

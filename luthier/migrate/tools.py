"""Which tool a config is written for, and the config it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml

from luthier.config import RunConfig, apply_override, parse_config, read_tree
from luthier.errors import ConfigError, Problem
from luthier.migrate.base import UNREAD, Line, table, translate

TOOLS = ("llamafactory", "axolotl", "trl")
NATIVE = ("model", "data", "objective", "train", "output")
"""Sections of our own configs; no other tool has a key of these names."""
NEWER = {"train_dataset", "peft_config", "dist_config", "kernel_config", "quant_config", "sample_backend"}
"""Keys of LLaMA-Factory's experimental trainer, whose configs name their model as ours do."""
METHODS = ("sft", "dpo", "kto", "reward", "grpo", "rloo")
"""The commands of TRL, which its configs do not name."""


@dataclass(frozen=True)
class Translation:
    """A config of another tool in our words, and what became of each of its keys."""

    source: str
    title: str
    tree: Mapping[str, Any]
    lines: Sequence[Line]

    def outcome(self, *names: str) -> list[Line]:
        """The keys with which that happened."""
        return [line for line in self.lines if line.outcome in names]

    def config(self) -> RunConfig:
        """The config.

        Raises:
            ConfigError: keys that are refused, or values that are not valid here, by the names they have there.
        """
        if refused := self.outcome("refused"):
            told = [line for line in refused if line.note != UNREAD] or refused
            raise ConfigError([Problem(one.key, f"{one.note}; given: {one.shown}") for one in told], source=self.source)
        try:
            return parse_config(dict(self.tree), source=self.source)
        except ConfigError as error:
            raise ConfigError([self._named(problem) for problem in error.problems], source=self.source) from None

    def _named(self, problem: Problem) -> Problem:
        """A problem with the names of the keys that wrote the value."""
        keys = [line.key for line in self.lines if any(_within(problem.path, path) for path in line.to)]
        return Problem(f"{problem.path} (from {', '.join(keys)})" if keys else problem.path, problem.message)

    def to_yaml(self) -> str:
        """The config as a file; what is refused or changed in meaning stands above it as comments."""
        head = [f"# {self.title} in the words of Luthier, from {self.source}"]
        for outcome in ("changed", "refused"):
            head += [f"# {outcome}: {' '.join(str(line).split())}" for line in self.outcome(outcome)]
        return "\n".join(head) + "\n" + yaml.safe_dump(dict(self.tree), sort_keys=False, allow_unicode=True)


def _within(path: str, written: str) -> bool:
    return bool(path) and (path == written or path.startswith(f"{written}.") or written.startswith(f"{path}."))


def recognised(tree: Mapping[str, Any], source: str) -> str | None:
    """The tool that a config is written for; None: a config of our own, or nothing that is known.

    The tools share many keys, so those count that only one of them has.

    Raises:
        ConfigError: keys of two tools, or of one whose configs cannot be read.
    """
    if "model" in tree and (newer := sorted(NEWER & tree.keys())):
        raise ConfigError(
            f"written for the experimental trainer of LLaMA-Factory ({', '.join(newer)}), which cannot be translated; "
            "write the keys of its stable one",
            source=source,
        )
    if not tree or set(NATIVE) & tree.keys():
        return None
    keys = {tool: set(table(tool).keys) for tool in TOOLS}
    own = {
        tool: sorted(k for k in tree if k in keys[tool] and not any(k in keys[o] for o in TOOLS if o != tool))
        for tool in TOOLS
    }
    ranked = sorted(TOOLS, key=lambda tool: len(own[tool]), reverse=True)
    first, second = (len(own[tool]) for tool in ranked[:2])
    if first and first == second:
        told = " and ".join(f"{table(tool).title} ({', '.join(own[tool][:3])})" for tool in ranked[:2])
        raise ConfigError(
            f"has keys of {told}; say which with: luthier migrate --from {' | '.join(TOOLS)}", source=source
        )
    return ranked[0] if first else None


def translation(
    tool: str, tree: Mapping[str, Any], *, source: str, devices: int = 1, method: str | None = None
) -> Translation:
    """A config of a tool, translated. `method` is the command of TRL that it was written for.

    Raises:
        ConfigError: TRL without a method.
    """
    if tool == "trl" and method not in METHODS:
        said = "TRL's command says what is learnt, not its config" if method is None else f"no method {method!r}"
        raise ConfigError(f"{said}: luthier migrate {source} --method {' | '.join(METHODS)}", source=source)
    draft = translate(tool, tree, {"devices": devices, "method": method})
    order = [*tree, *(key for key in draft.lines if key not in tree)]
    ours = {section: draft.tree[section] for section in RunConfig.model_fields if section in draft.tree}
    return Translation(source, draft.table.title, ours, [draft.lines[key] for key in order])


def read_run(path: str, overrides: Sequence[str], *, devices: int = 1) -> tuple[RunConfig, Translation | None]:
    """A config of our own or of another tool, with overrides, and its translation if it was another tool's.

    Overrides name keys of the file; those of our sections (`train.seed=1`) apply to what it becomes.

    Raises:
        ConfigError: every problem found, as `read_config` raises it.
    """
    tree = read_tree(path)
    tool = recognised(tree, path)
    ours = [one for one in overrides if tool is None or _is_ours(one, tool)]
    for override in overrides:
        if override not in ours:
            apply_override(tree, override)
    found = None if tool is None else translation(tool, tree, source=path, devices=devices)
    if found is not None:
        found.config()
        tree = deepcopy(dict(found.tree))
    for override in ours:
        apply_override(tree, override)
    return parse_config(tree, source=path), found


def _is_ours(override: str, tool: str) -> bool:
    head, dot, _ = override.partition("=")[0].lstrip("-").partition(".")
    return head in RunConfig.model_fields and (bool(dot) or head not in table(tool).keys)

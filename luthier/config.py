"""`RunConfig`: a tree of at most eight sections that says everything about one run. Imports no room.

A file is YAML or JSON; overrides are `train.learning_rate=1e-4`. Kinds are looked up in `plugins.py`, so this file
never changes when a new objective, adapter or strategy appears.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from luthier.errors import ConfigError, Problem
from luthier.plugins import OWN_ERRORS, Choice, Part, Settings
from luthier.units import Duration

Auto = Literal["auto"]
SectionType = TypeVar("SectionType", bound=Settings)
Positive = Annotated[int, Field(gt=0)]


class Section(Settings):
    """A section that may be written as one bare value, e.g. `model: my-model` for `model: {path: my-model}`."""

    bare: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _from_bare(cls, value: object) -> object:
        return {cls.bare: value} if isinstance(value, str) else value


class ModelConfig(Section):
    """The model to start from."""

    bare = "path"
    path: str
    """A folder, a hub id, a .gguf file, a name from `luthier models list`, the output folder of a run, or a version in
    the registry (`models:/medical/3`, `models:/medical@champion`)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the weights are kept in while training; auto: float32 for trainable weights and on CPUs, else bfloat16."""
    chat_template: str | None = None
    """A .jinja file that replaces the tokenizer's own chat template."""
    template_options: dict[str, Any] = Field(default={})
    """Variables for the chat template, for example `{enable_thinking: false}`; a tuned model keeps those of its run."""


class SourceConfig(Section):
    """Rows from one place: a file, a folder, a pattern such as `rows/*.csv`, or `hub:owner/name`."""

    bare = "path"
    path: str
    """JSON, JSON Lines, CSV, TSV, text, Markdown, Parquet, Arrow or XLSX, also packed (.gz, .bz2, .zst); a folder or a
    pattern of such files; `-` for standard input; or `hub:owner/name`."""
    format: str = "auto"
    """Layout of the rows (`luthier plugins format`); auto: recognised, and refused when two would fit."""
    limit: Positive | None = None
    """Take only the first rows."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How often each row is seen in an epoch: 2 is twice, 0.5 takes half of the rows, always the same."""
    columns: dict[str, str] = Field(default={})
    """Keys of the layout and the keys of the file that hold them, for example `{instruction: question, output: reply}`;
    keys that are not named are then not read. Empty: every key, under its own name."""
    turns: dict[str, str] = Field(default={})
    """What the turns of a conversation call their parts, where that is not what ShareGPT or OpenAI call them: the keys
    `role` and `content`, and the speakers `user`, `assistant`, `system`, `tool` and `function_call`."""
    name: str | None = None
    """Which data set of a dataset_info.json."""
    encoding: str = "auto"
    """Encoding of text; auto: UTF-8, UTF-16, GB18030 or Western, as found, and refused where it cannot be told."""
    text_unit: Literal["auto", "line", "paragraph", "file"] = "auto"
    """What one text of a plain text file is; auto: a paragraph where empty lines lie between, else a line."""
    sheet: str | None = None
    """Sheet of an XLSX file, where several have rows."""
    subset: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    licence: str | None = None
    """Licence of the rows, for the card of the tuned model, for example CC-BY-4.0."""


class CleanConfig(Settings):
    """How rows are cleaned."""

    clean: list[Annotated[Part, Choice("cleaner")]] = Field(default=[])
    """Cleaners (`luthier plugins cleaner`) that mend or drop rows, in their order; what they did is in rows.json."""


class AugmentConfig(Settings):
    """How new rows are made of those that are trained on."""

    augment: list[Annotated[Part, Choice("augmenter")]] = Field(default=[])
    """Augmenters (`luthier plugins augmenter`) that make new rows of the training rows, never of held-out ones."""
    guard: list[Annotated[Part, Choice("guard")]] = Field(default=["facts", "near-duplicates"], validate_default=True)
    """Guards that refuse new rows, in their order; what they refused is counted in rows.json."""


class DataConfig(CleanConfig, AugmentConfig):
    """What to train on and how rows become token sequences."""

    @field_validator("train", "held_out", mode="before")
    @classmethod
    def _one_file(cls, value: object) -> object:
        return [value] if isinstance(value, str | dict) else value

    train: Annotated[list[SourceConfig], Field(min_length=1)]
    """What to train on, each a path or `{path, format, limit, weight, ...}`; one alone needs no list."""
    held_out: Annotated[float, Field(ge=0, lt=1)] | Positive | list[SourceConfig] = 0.1
    """Rows never trained on: a share or a number of the training rows (chosen by each row's content), or files of their
    own."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Another seed chooses other rows to hold out."""
    stratify: Literal["source", "language", "label"] | None = None
    """Hold out as much of each source, language or label."""
    keep_together: list[Literal["near-duplicates", "conversations"]] = Field(default=[])
    """Rows of which all are trained on or none: those that are nearly equal, and those that continue one beginning."""
    max_length: Positive = 1024
    """Longest sequence in tokens."""
    over_length: Literal["error", "drop", "truncate", "split"] = "error"
    """What to do with longer sequences; error: refuse the run, so that the choice is yours."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with rows that cannot be used; error: refuse the run and name them; drop: name them in rows.json."""
    streaming: bool = False
    """Read rows as training goes, for sources that are too large to be read before it; everything is then said in steps
    (`train.max_steps`), and only the first rows are checked."""
    shuffle_buffer: Positive = 10_000
    """Rows of a stream among which the next one is drawn."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that clean and render rows; 0: this one."""
    cache: bool = True
    """Keep the rendered rows of large files for the next run, in Luthier's folder."""
    packing: bool = True
    """Put several sequences in one row of a micro-batch without padding (exact: they never see each other)."""


class TrainConfig(Settings):
    """The optimisation."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training rows."""
    max_steps: Positive | None = None
    """Stop after so many optimizer steps, if `epochs` does not end it sooner."""
    batch_size: Positive = 16
    """Rows per optimizer step over all devices."""
    micro_batch_size: Positive | Auto = "auto"
    """Most rows in one forward pass; auto: as many as fit `micro_batch_tokens`."""
    micro_batch_tokens: Positive | Auto = "auto"
    """Most tokens in one forward pass (a single longer row passes alone); auto: 512 on CPUs, 8192 on GPUs."""
    optimizer: Annotated[Part, Choice("optimizer")] = Field(default="adamw", validate_default=True)
    """The optimizer."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay; never applied to norms and biases."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer as a share of that of the layer above; embeddings lowest, head highest."""
    schedule: Annotated[Part, Choice("schedule")] = Field(default="cosine", validate_default=True)
    """Shape of the learning rate after the warm-up."""
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    """Linear warm-up: a share of all steps when below 1, else a number of steps."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the norm of all gradients to this; null: do not clip."""
    spike_factor: Annotated[float, Field(gt=1)] | None = 100.0
    """Skip a step whose gradient norm is so many times the usual one, or `max_grad_norm` where that is more."""
    max_skipped_steps: Positive = 5
    """Stop after so many steps in a row that had to be skipped, since loss or gradients are not finite or explode."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the arithmetic; auto: bf16 on GPUs that have it, else fp32; fp16: with loss scaling, on GPUs only."""
    gradient_checkpointing: bool | Positive = False
    """Recompute activations in the backward pass: less memory, a third more time; n: of every n-th layer only."""
    kernels: Literal["auto", "plain"] | list[Literal["lora", "norm", "gated", "attention"]] = "auto"
    """What computes training passes faster than the model's own code: all that machine and model allow, nothing, or
    some by name. Losses are the same but for rounding."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, order and dropout."""
    evaluate_every: Duration | None = Duration(1, "epochs")
    """How often to measure the held-out loss; null: only at the end."""
    best_metric: str = "loss"
    """The measurement that says which weights are the best; what the objective does not report is one of
    `evaluate.metrics` or `evaluate.kinds`, which are then measured as often. Of losses, perplexity and kl the lower."""
    patience: Positive | None = None
    """Training ends after so many evaluations in a row without a better one; null: all steps are made."""
    save_every: Duration | None = Duration(1, "epochs")
    """How often to write a checkpoint; null: only the best and the last."""


class EvaluateConfig(Settings):
    """How the tuned model is measured on the held-out rows after training."""

    metrics: list[Annotated[Part, Choice("metric")]] = Field(default=[])
    """Metrics of generated answers, for example `[exact_match, token_f1, chrf]`; empty: loss only."""
    kinds: list[Annotated[Part, Choice("evaluation")]] = Field(default=[])
    """What else is measured of the rows that it is made for, for example `[choice]`; the loss always is."""
    max_new_tokens: Positive = 128
    """Longest generated answer in tokens."""
    limit: Positive | None = None
    """Use at most so many held-out rows for generated answers."""
    samples: Positive = 1
    """Answers to each question; metrics are the mean over them."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """How freely answers are drawn; 0 takes the likeliest, which with several samples are all the same."""
    watch: Annotated[int, Field(ge=0)] = 0
    """Held-out rows whose answers are written down as they improve, in `watched.jsonl`, at every evaluation.

    None are where a model is cut over devices."""


class OutputConfig(Section):
    """Where the run is written."""

    bare = "dir"
    dir: str
    """Folder of the run; holds the tuned model, checkpoints, metrics, report and the resolved config."""
    keep: Positive = 2
    """Newest checkpoints to keep; the best is kept besides."""
    final: Literal["best", "last"] = "best"
    """Which weights stand at the top of the folder: lowest held-out loss, or the last step."""
    trackers: list[Annotated[Part, Choice("tracker")]] = Field(default=[])
    """Further places for metrics, for example `[tensorboard]`; `metrics.jsonl` is always written."""
    register_as: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*$")] | None = None
    """Register the tuned model under this name when the run is finished (`luthier models`)."""
    per_process: bool = False
    """Also write memory and seconds of every process at each step, in `processes.jsonl`."""


class RunConfig(Settings):
    """Everything about one run."""

    model: ModelConfig
    """The model to start from."""
    data: DataConfig
    """What to train on, and how rows become token sequences."""
    adapter: Annotated[Part, Choice("adapter")] = Field(default="lora", validate_default=True)
    """Which weights are trained."""
    objective: Annotated[Part, Choice("objective")] = Field(default="sft", validate_default=True)
    """What is learnt from a row."""
    train: TrainConfig = Field(default_factory=TrainConfig)  # made late: it imports the parts it picks by default
    """The optimisation."""
    parallel: Annotated[Part, Choice("strategy")] = Field(default="auto", validate_default=True)
    """How the work is shared by devices."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How the tuned model is measured on the held-out rows."""
    output: OutputConfig
    """Where the run is written."""

    def to_yaml(self) -> str:
        """The resolved config, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# ---- reading ---------------------------------------------------------------------------------------------------


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML or JSON file and apply overrides such as `train.epochs=1`.

    Raises:
        ConfigError: every problem found, each with its key path, what is allowed and the nearest match.
    """
    tree = read_tree(path)
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree, source=str(path))


def parse_config(tree: dict[str, Any], *, source: str = "config") -> RunConfig:
    """Validate a tree of plain values; raises ConfigError as `read_config` does."""
    return parse_section(RunConfig, tree, source=source)


def parse_section(section: type[SectionType], tree: dict[str, Any], *, source: str) -> SectionType:
    """Validate the values of one section; raises ConfigError as `read_config` does."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([_problem(dict(e)) for e in error.errors()], source=source) from None


def read_tree(path: str | Path) -> dict[str, Any]:
    """The plain values of a YAML or JSON file. Duplicate keys are refused: one of them would be lost silently."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no such file (looked at {file.absolute()})", source=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read as text: {error}", source=str(path)) from None
    return tree_of(text, source=str(path), json_only=file.suffix == ".json")


def tree_of(text: str, *, source: str = "config", json_only: bool = False) -> dict[str, Any]:
    """The plain values of a config's text, as `read_tree`."""
    try:
        tree = json.loads(text, object_pairs_hook=_unique) if json_only else _yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid {'JSON' if json_only else 'YAML'}: {error}", source=source) from None
    if not isinstance(tree, dict):
        raise ConfigError("a config is a mapping of sections; see `luthier config schema`", source=source)
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} is given twice")
    return dict(pairs)


class _UniqueLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: list[Any] = []  # a key may be a list here; the parent class refuses it with its place
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: the key {key!r} is given twice")
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_UniqueLoader)  # noqa: S506 - a SafeLoader


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in the tree; a bare section value becomes its mapping first.

    Raises:
        ConfigError: it has no key or no value, or a key on the way holds a value.
    """
    path, equals, value = override.partition("=")
    keys = path.lstrip("-").replace("-", "_").split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{override!r} is not an override; write section.key=value, e.g. train.epochs=1")
    for depth, key in enumerate(keys[:-1]):
        inner = tree.get(key)
        if inner is None or isinstance(inner, str):
            section = ".".join(keys[: depth + 1])
            inner = {} if inner is None else {bare_key(section): inner}
            tree[key] = inner
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{'.'.join(keys[: depth + 1])} holds a {type(inner).__name__}, not keys", source=override
            )
        tree = inner
    tree[keys[-1]] = value_of(value, source=path)


def value_of(text: str, *, source: str) -> Any:
    """A value as YAML writes it.

    Raises:
        ConfigError: it is none.
    """
    try:
        return _yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{text!r} is not a YAML value: {error}", source=source) from None


def bare_key(section: str) -> str:
    """What a section, or a part, means that is written as one value."""
    kind = RunConfig.model_fields[section].annotation if section in RunConfig.model_fields else None
    return kind.bare if isinstance(kind, type) and issubclass(kind, Section) else "type"


def _problem(error: dict[str, Any]) -> Problem:
    """One pydantic error as a sentence with the path, what was given and what is allowed."""
    path = ".".join(str(part) for part in error["loc"] if not _is_union_tag(part))
    if error["type"] == "missing":
        return Problem(path, "is required")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in OWN_ERRORS or error["type"] == "value_error":
        return Problem(path, message)
    return Problem(path, f"{message[0].lower()}{message[1:]}; given: {error['input']!r}")


def _is_union_tag(part: str | int) -> bool:
    """pydantic puts the name of the tried alternative into the path; no key of ours looks like one."""
    return isinstance(part, str) and (part in ("float", "int", "str", "bool") or any(c in part for c in "[-("))

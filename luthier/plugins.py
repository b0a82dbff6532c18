"""One table of every swappable part, and the config type that picks from it.

A part is one class in one file. Built-in parts stand in `BUILT_IN`; anyone else's package adds its own with an
entry point in the group `luthier.<kind>`:

    [project.entry-points."luthier.objective"]
    focal = "my_package.focal:Focal"

Only the module of the part that was asked for is imported, and that module imports its heavy libraries inside its
functions, so a config is validated without torch. This file knows no room: it resolves names, nothing else.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from luthier.errors import UserError

BUILT_IN: dict[str, dict[str, str]] = {
    "file": {
        "json": "luthier.data.files.json:Json",
        "table": "luthier.data.files.table:Table",
        "text": "luthier.data.files.text:PlainText",
        "columnar": "luthier.data.files.columnar:Columnar",
        "yaml": "luthier.data.files.yaml:Yaml",
        "po": "luthier.data.files.po:Po",
        "sheet": "luthier.data.files.sheet:Sheet",
    },
    "format": {
        "messages": "luthier.data.formats.messages:Messages",
        "sharegpt": "luthier.data.formats.sharegpt:ShareGPT",
        "alpaca": "luthier.data.formats.alpaca:Alpaca",
        "prompt-completion": "luthier.data.formats.prompt_completion:PromptCompletion",
        "preference": "luthier.data.formats.preference:PreferencePair",
        "labelled": "luthier.data.formats.labelled:LabelledAnswer",
        "prompt": "luthier.data.formats.prompt:Prompt",
        "choice": "luthier.data.formats.choice:Choice",
        "parallel": "luthier.data.formats.parallel:Parallel",
        "turns": "luthier.data.formats.turns:Turns",
        "text": "luthier.data.formats.text:PlainText",
    },
    "cleaner": {
        "repair": "luthier.data.clean.repair:Repair",
        "secrets": "luthier.data.clean.redact:Secrets",
        "personal": "luthier.data.clean.redact:Personal",
        "duplicates": "luthier.data.clean.duplicates:Duplicates",
        "near-duplicates": "luthier.data.clean.near:NearDuplicates",
        "quality": "luthier.data.clean.quality:Quality",
        "language": "luthier.data.clean.language:Language",
        "offensive": "luthier.data.clean.offensive:Offensive",
        "harm": "luthier.data.clean.harm:Harm",
        "spelling": "luthier.data.clean.spelling:Spelling",
        "perplexity": "luthier.curate.likelihood:Perplexity",
        "ifd": "luthier.curate.likelihood:Ifd",
        "classifier": "luthier.curate.classifier:Classifier",
        "judge": "luthier.curate.judge:Judge",
        "same-meaning": "luthier.curate.meaning:SameMeaning",
    },
    "augmenter": {
        "synonyms": "luthier.data.augment.synonyms:Synonyms",
        "recombination": "luthier.data.augment.recombination:Recombination",
        "paraphrase": "luthier.curate.rewrite:Paraphrase",
        "questions": "luthier.curate.rewrite:Questions",
        "back-translation": "luthier.curate.rewrite:BackTranslation",
    },
    "guard": {
        "facts": "luthier.data.augment.guards:Facts",
        "near-duplicates": "luthier.data.augment.guards:NearDuplicates",
        "meaning": "luthier.curate.meaning:Meaning",
    },
    "adapter": {
        "lora": "luthier.adapters.lora:Lora",
        "qlora": "luthier.adapters.qlora:QLora",
        "adalora": "luthier.adapters.adalora:AdaLora",
        "bottleneck": "luthier.adapters.bottleneck:Bottleneck",
        "prefix": "luthier.adapters.virtual:Prefix",
        "prompt": "luthier.adapters.virtual:Prompt",
        "p-tuning": "luthier.adapters.virtual:PTuning",
        "ia3": "luthier.adapters.ia3:Ia3",
        "oft": "luthier.adapters.oft:Oft",
        "vera": "luthier.adapters.vera:Vera",
        "freeze": "luthier.adapters.freeze:Freeze",
        "full": "luthier.adapters.full:Full",
    },
    "objective": {
        "sft": "luthier.objectives.sft:Sft",
        "pretrain": "luthier.objectives.pretrain:Pretrain",
        "dpo": "luthier.objectives.dpo:Dpo",
        "kto": "luthier.objectives.kto:Kto",
        "orpo": "luthier.objectives.orpo:Orpo",
        "simpo": "luthier.objectives.simpo:Simpo",
        "cpo": "luthier.objectives.cpo:Cpo",
        "reward": "luthier.objectives.reward:Reward",
        "distill": "luthier.objectives.distill:Distill",
        "grpo": "luthier.objectives.grpo:Grpo",
        "rloo": "luthier.objectives.rloo:Rloo",
        "ppo": "luthier.objectives.ppo:Ppo",
    },
    "reward": {
        "exact_match": "luthier.rollout.rewards:ExactMatch",
        "regex": "luthier.rollout.rewards:Pattern",
        "python": "luthier.rollout.rewards:PythonFile",
        "model": "luthier.rollout.rewards:RewardModel",
    },
    "optimizer": {
        "adamw": "luthier.train.optim.adamw:AdamW",
        "adamw-8bit": "luthier.train.optim.adamw:AdamW8bit",
        "adafactor": "luthier.train.optim.adafactor:Adafactor",
        "lion": "luthier.train.optim.lion:Lion",
        "muon": "luthier.train.optim.muon:Muon",
        "schedule-free": "luthier.train.optim.schedule_free:ScheduleFree",
        "galore": "luthier.train.optim.low_rank:GaLore",
        "apollo": "luthier.train.optim.low_rank:Apollo",
        "badam": "luthier.train.optim.badam:BAdam",
    },
    "schedule": {
        "cosine": "luthier.train.schedule:Cosine",
        "linear": "luthier.train.schedule:Linear",
        "constant": "luthier.train.schedule:Constant",
        "cosine-restarts": "luthier.train.schedule:CosineRestarts",
        "wsd": "luthier.train.schedule:Wsd",
        "polynomial": "luthier.train.schedule:Polynomial",
    },
    "strategy": {
        "auto": "luthier.distributed.auto:Auto",
        "single": "luthier.distributed.single:Single",
        "ddp": "luthier.distributed.ddp:Ddp",
        "fsdp": "luthier.distributed.fsdp:Fsdp",
        "tensor": "luthier.distributed.tensor:TensorParallel",
        "pipeline": "luthier.distributed.pipeline:Pipeline",
        "sequence": "luthier.distributed.sequence:SequenceParallel",
        "deepspeed": "luthier.distributed.deepspeed:DeepSpeed",
    },
    "evaluation": {
        "loss": "luthier.evaluate.kinds:Loss",
        "choice": "luthier.evaluate.choice:MultipleChoice",
        "pairwise": "luthier.evaluate.kinds:Pairwise",
        "generate": "luthier.evaluate.kinds:Generate",
    },
    "metric": {
        "exact_match": "luthier.evaluate.metrics:ExactMatch",
        "token_f1": "luthier.evaluate.metrics:TokenF1",
        "chrf": "luthier.evaluate.metrics:ChrF",
        "bleu": "luthier.evaluate.metrics:Bleu",
        "rouge": "luthier.evaluate.metrics:Rouge",
        "json": "luthier.evaluate.checks:Json",
        "tool_calls": "luthier.evaluate.checks:ToolCalls",
        "python": "luthier.evaluate.checks:PythonFile",
    },
    "tracker": {
        "jsonl": "luthier.tracking.jsonl:Jsonl",
        "tensorboard": "luthier.tracking.tensorboard:TensorBoard",
    },
}

OWN_ERRORS = frozenset({"unknown_key", "choice"})
"""Types of validation errors whose message is ours and complete."""


class Settings(BaseModel):
    """Base of every config section: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: object) -> object:
        """Refuse unknown keys with the nearest match; pydantic's own message would not say what is allowed."""
        unknown = [key for key in value if key not in cls.model_fields] if isinstance(value, dict) else []
        if unknown:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(
                            "unknown_key",
                            "unknown key; {hint}",
                            {"hint": suggestion(str(key), cls.model_fields)},
                        ),
                        loc=(str(key),),
                        input=key,
                    )
                    for key in unknown
                ],
            )
        return value


class Part(Settings):
    """Base of every part that a config picks by `type:`."""

    type: str


class UnknownPart(UserError):
    """A name that no part of this kind has."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"unknown {kind} {name!r}; {suggestion(name, names(kind))}")


def suggestion(given: str, allowed: Iterable[str]) -> str:
    """'did you mean ...?' where something is near, and always what is allowed."""
    options = sorted(allowed)
    near = difflib.get_close_matches(given, options, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(options)}"


@cache
def _table(kind: str) -> dict[str, str]:
    added = {point.name: point.value for point in entry_points(group=f"luthier.{kind}")}
    return added | BUILT_IN[kind]  # a built-in name cannot be taken over


def names(kind: str) -> list[str]:
    """The names of all parts of a kind, installed plug-ins included."""
    return list(_table(kind))


def target(kind: str, name: str) -> str:
    """Where a part lives, as `module:Class`."""
    return _table(kind)[name]


def load(kind: str, name: str) -> type[Any]:
    """Import the class of one part.

    Raises:
        UnknownPart: no part of that name.
        UserError: an installed plug-in whose module cannot be imported.
    """
    if name not in _table(kind):
        raise UnknownPart(kind, name)
    module, _, attribute = target(kind, name).partition(":")
    try:
        found: type[Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the {kind} plug-in {name!r} ({module}:{attribute}) cannot be loaded: {error}") from error
    return found


class Choice:
    """Marks a config field that holds a part: `lora` or `{type: lora, rank: 8}`.

    Used as `Annotated[Part, Choice("adapter")]`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def validate(self, value: object) -> Part:
        """Turn a name, a mapping with `type`, or a ready part into the part itself."""
        if isinstance(value, Part):
            return value
        given = {"type": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("type"), str):
            raise PydanticCustomError(
                "choice",
                "{given} does not say which {kind}; write its name or a mapping with 'type'; allowed: {allowed}",
                {"given": repr(value), "kind": self.kind, "allowed": ", ".join(names(self.kind))},
            )
        try:
            part = load(self.kind, given["type"])
        except UserError as error:
            raise PydanticCustomError("choice", "{message}", {"message": str(error)}) from error
        if not issubclass(part, Part):
            raise PydanticCustomError("choice", "the {kind} plug-in is not a luthier Part", {"kind": self.kind})
        if lacking := sorted(getattr(part, "__abstractmethods__", ())):
            message = "the {kind} plug-in {name} lacks what every {kind} needs: {lacking}"
            named = {"kind": self.kind, "name": repr(given["type"]), "lacking": ", ".join(lacking)}
            raise PydanticCustomError("choice", message, named)
        return part.model_validate(given)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda part: part.model_dump(mode="json"))
        return core_schema.no_info_plain_validator_function(self.validate, serialization=dump)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        kinds = [handler(load(self.kind, name).__pydantic_core_schema__) for name in names(self.kind)]
        return {"oneOf": [{"enum": names(self.kind)}, *kinds], "title": self.kind}

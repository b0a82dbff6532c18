"""Rows by how likely their answers are to a model: perplexity, and instruction-following difficulty."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.config import ModelConfig
from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said
from luthier.data.conversation import Content, Conversation, Message, Origin, Task, Text, conversations
from luthier.errors import RowError

if TYPE_CHECKING:
    from luthier.data.render import Tokens

LARGEST_EXPONENT = 700.0
"""Beyond it there is no number left."""


class Likely(CleanerSettings):
    """Base of the cleaners that measure how likely answers are."""

    heavy: ClassVar[bool] = True
    model: ModelConfig = ModelConfig(path="smollm2-135m-instruct")
    """The model whose probabilities are taken, behind its own chat template."""
    min: Annotated[float, Field(ge=0)] | None = None
    """Rows that are measured below it go: they teach the model nothing; null: all stay."""
    max: float
    """What is measured of a row from which on it goes."""

    def build(self) -> Cleaner:
        """Load the model."""
        return _Measured(self, _likelihood(self.model.model_dump_json()))

    @abstractmethod
    def measured(self, likelihood: Likelihood, rows: Sequence[Content]) -> list[float | None]:
        """What is measured of each row; None where it cannot be."""


class Perplexity(Likely):
    """Drop rows whose answer (or text) a model finds too unlikely, as it finds garbled ones."""

    type: Literal["perplexity"] = "perplexity"
    max: Annotated[float, Field(gt=1)] = 1000.0
    """Perplexity of the answer given its question, from which on a row goes."""

    def measured(self, likelihood: Likelihood, rows: Sequence[Content]) -> list[float | None]:
        """The perplexity of each answer."""
        found = likelihood.mean_logprobs([answered(row) for row in rows])
        return [None if mean is None else math.exp(min(-mean, LARGEST_EXPONENT)) for mean in found]


class Ifd(Likely):
    """Drop rows whose question makes their answer no likelier: they do not belong together.

    Instruction-following difficulty (Li et al. 2023, arXiv:2308.12032): the answer's perplexity given its question over
    that without it.
    """

    type: Literal["ifd"] = "ifd"
    max: Annotated[float, Field(gt=0)] = 1.0
    """The difficulty from which on a row goes."""

    def measured(self, likelihood: Likelihood, rows: Sequence[Content]) -> list[float | None]:
        """The difficulty of each answer."""
        asked = [row if isinstance(row, Conversation) else None for row in map(answered, rows)]
        given = likelihood.mean_logprobs(asked)
        alone = likelihood.mean_logprobs([row and unasked(row) for row in asked])
        return [
            None if with_it is None or without is None else math.exp(min(without - with_it, LARGEST_EXPONENT))
            for with_it, without in zip(given, alone, strict=True)
        ]


class _Measured(Cleaner):
    def __init__(self, settings: Likely, likelihood: Likelihood) -> None:
        self.settings, self.likelihood = settings, likelihood
        self.unmeasured: list[str] = []

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """What is measured of each row."""
        return self.settings.measured(self.likelihood, [row.content for row in rows])

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """Whether it lies between the lines; remembers what could not be measured."""
        rule, least, most = self.settings.type, self.settings.min, self.settings.max
        if finding is None:
            self.unmeasured.append(row.where)
        elif finding >= most:
            return Drop(rule, finding, most, f"{rule} {finding:.4g}; rows from {most:g} on go")
        elif least is not None and finding < least:
            return Drop(f"low-{rule}", finding, least, f"{rule} {finding:.4g}; rows below {least:g} go")
        return None

    def close(self) -> None:
        """Let go of the model."""
        _likelihood.cache_clear()

    def notes(self) -> Sequence[str]:
        """Rows that were not measured, and stayed."""
        count, first = len(self.unmeasured), "".join(self.unmeasured[:1])
        why = "no answer to a question, refused by the chat template, or longer than the model knows"
        rule = self.settings.type
        return [f"{rule}: {count} rows were not measured, and stay ({why}); first: {first}"] if count else []


def answered(content: Content) -> Conversation | Text | None:
    """What of a row is measured: its answer where it is asked, the better one of two; or a whole text."""
    if isinstance(content, Text):
        return content
    if isinstance(content, Task):
        if content.answer is None:
            return None
        said = Message(role="assistant", content=content.answer)
        return Conversation((*content.asked.messages, said), content.asked.tools)
    return conversations(content)[0]


def unasked(conversation: Conversation) -> Conversation:
    """The same answers, in the same frame of control tokens, to nothing."""
    turns = (
        turn if turn.role == "assistant" and turn.weight > 0 else Message(role=turn.role, weight=turn.weight)
        for turn in conversation.messages
        if turn.role not in ("system", "developer")
    )
    return Conversation(tuple(turns))


@cache
def _likelihood(config: str) -> Likelihood:
    """Loaded once in a process."""
    return Likelihood(ModelConfig.model_validate_json(config))


class Likelihood:
    """A model that says how likely answers are; raises ModelError where it cannot be loaded."""

    def __init__(self, config: ModelConfig) -> None:
        from luthier.data.pack import Layout
        from luthier.distributed.single import SingleStrategy
        from luthier.models.load import ModelLoader, packs
        from luthier.models.output import Forward
        from luthier.system.hardware import micro_batch_tokens

        models = ModelLoader()
        self.renderer, self.model = models.renderer(config), models.load_for_use(config)
        self.forward, self.strategy = Forward(self.model), SingleStrategy(self.model.device)
        tokens = micro_batch_tokens("auto", self.strategy.device.type)
        self.layout = Layout(packs(self.model), tokens, pad_id=self.renderer.tokenizer.pad_token_id or 0)
        self.places = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31

    def mean_logprobs(self, rows: Sequence[Conversation | Text | None]) -> list[float | None]:
        """The mean log-probability of an answer's tokens, its end included; None where there is none to measure."""
        from luthier.data.pack import Example
        from luthier.models.reference import with_reference

        found: list[float | None] = [None] * len(rows)
        examples = []
        for place, row in enumerate(rows):
            try:
                sequences = self._rendered(row)
            except RowError:
                continue
            if sequences and max(map(len, sequences)) <= self.places:
                examples.append(Example(Origin("", place), "", tuple(sequences), Text("")))
        if examples:
            examples = with_reference(self.model, self.forward, examples, self.layout, self.strategy)
        for example in examples:
            mean = float(example.columns["reference"].mean()) if example.supervised else math.nan
            found[example.origin.line] = mean if math.isfinite(mean) else None
        return found

    def _rendered(self, row: Conversation | Text | None) -> list[Tokens]:
        if isinstance(row, Text):
            return [self.renderer.whole(row)]
        return self.renderer.conversation(row) if row else []

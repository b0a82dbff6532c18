"""New questions to the same answers, written by a language model, or by translating there and back again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.curate.writer import Writer, asking
from luthier.data.augment.base import Augmenter, AugmenterSettings, Candidate
from luthier.data.augment.rewrite import rewritten
from luthier.data.clean.base import said
from luthier.data.conversation import Content, Conversation, Message, Task, Text

BATCH = 64
"""Rows that are rewritten together."""
TEMPERATURE = 0.8
QUOTES = {'"': '"', "“": "”", "「": "」", "'": "'", "`": "`"}
Write = Callable[[Sequence[str]], Sequence[str]]
"""From texts to texts in their place; an empty one where nothing came of it."""
Texts = Callable[[Content], Sequence[str]]
Put = Callable[[Content, Sequence[str]], Content]


class Written(AugmenterSettings):
    """Base of what a language model writes."""

    writer: Writer
    """The model that writes."""
    temperature: Annotated[float, Field(gt=0, le=2)] = TEMPERATURE
    """How far it may stray; an endpoint may write something else every time."""

    def says(self, prompt: str) -> Write:
        """What it writes about a text; raises UserError where it can neither be loaded nor asked."""
        return written(self.writer, prompt, temperature=self.temperature, seed=self.seed)


class Paraphrase(Written):
    """The questions in other words; the answers stay, and so do texts."""

    type: Literal["paraphrase"] = "paraphrase"

    def build(self) -> Augmenter:
        """Load the model, or get ready to ask an endpoint."""
        return Rewriter(self, _asked, self.says("paraphrase"), with_questions)


class Questions(Written):
    """Another question to the same answer; to a text, a question that it answers."""

    type: Literal["questions"] = "questions"

    def build(self) -> Augmenter:
        """Load the model, or get ready to ask an endpoint."""
        return Rewriter(self, answer_of, self.says("questions"), asked_about)


class BackTranslation(AugmenterSettings):
    """The questions (or a text), translated there and back (Sennrich et al. 2016, arXiv:1511.06709)."""

    type: Literal["back-translation"] = "back-translation"
    by: Literal["models", "writer", "apertium"]
    """What translates: `models` of transformers, an instruct model, or Apertium's program."""
    languages: tuple[str, str]
    """The rows' language, and the one on the way, as what translates calls them: `[eng_Latn, fra_Latn]` for NLLB,
    `[en, fr]` for M2M100 and MarianMT, `[English, French]` for a writer, `[eng, spa]` for Apertium."""
    models: tuple[str, str] | None = None
    """Folders (or hub ids) of the models for the way there and back; NLLB and M2M100 are one model twice."""
    writer: Writer | None = None
    """The model that translates."""

    @model_validator(mode="after")
    def _named(self) -> BackTranslation:
        for name in ("models", "writer"):
            if (getattr(self, name) is None) == (self.by == name):
                raise ValueError(f"by: {self.by}: {name} is {'missing' if self.by == name else 'not used'}")
        return self

    def build(self) -> Augmenter:
        """Load what translates.

        Raises:
            UserError: a model cannot be loaded or does not know a language; Apertium or its languages are not there.
        """
        there, back = (self._way(place) for place in (0, 1))
        return Rewriter(self, questions_of, lambda texts: back(there(texts)), with_questions)

    def _way(self, place: int) -> Write:
        from luthier.curate.translate import Apertium, Translator

        source, target = self.languages[place], self.languages[1 - place]
        if self.models is not None:
            return Translator(self.models[place], source, target)
        if self.writer is not None:
            return written(self.writer, "translate", temperature=TEMPERATURE, seed=self.seed, language=target)
        return Apertium(source, target)


class Rewriter:
    """Makes new rows by writing some texts of each anew."""

    def __init__(self, settings: AugmenterSettings, texts_of: Texts, write: Write, put: Put) -> None:
        self.settings, self.texts_of, self.write, self.put = settings, texts_of, write, put

    def make(self, rows: Sequence[Content]) -> Iterator[Candidate]:
        """New rows; none where a text was not written, or all are what was there before."""
        work = [(row, texts) for row, content in enumerate(rows) if (texts := self.texts_of(content))]
        work = [one for one in work for _ in range(self.settings.copies)]
        seen = {(row, tuple(texts)) for row, texts in work}
        for start in range(0, len(work), BATCH):
            part = work[start : start + BATCH]
            new = iter(self.write([text for _, texts in part for text in texts]))
            for row, texts in part:
                told = tuple(islice(new, len(texts)))
                if all(told) and (row, told) not in seen:
                    seen.add((row, told))
                    yield Candidate(row, self.put(rows[row], told), self.settings.type)


def written(writer: Writer, prompt: str, *, temperature: float, seed: int, **texts: str) -> Write:
    """What a language model answers to a prompt in which a text stands."""
    engine, sampling = writer.open(), writer.sampling(temperature=temperature, seed=seed)

    def write(given: Sequence[str]) -> Sequence[str]:
        wanted = [place for place, text in enumerate(given) if text]
        answers = engine.generate([asking(prompt, text=given[place], **texts) for place in wanted], sampling)
        found = {wanted[number]: bare(answer) for number, answer in answers}
        return [found.get(place, "") for place in range(len(given))]

    return write


def bare(answer: str) -> str:
    """An answer without the thoughts before it, and without quotes around it."""
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL).strip()
    quoted = len(text) > 1 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]
    return text[1:-1].strip() if quoted else text


def questions_of(content: Content) -> list[str]:
    """What `rewritten` may change of a row: its questions, or the whole of a text."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    rewritten(content, note)
    return [text for text in found if text.strip()]


def _asked(content: Content) -> list[str]:
    return [] if isinstance(content, Text) else questions_of(content)


def with_questions(content: Content, new: Sequence[str]) -> Content:
    """The row with other questions; another text."""
    left = iter(new)
    return rewritten(content, lambda text: next(left) if text.strip() else text)


def answer_of(content: Content) -> list[str]:
    """The answer of a row that asks once, or a text."""
    answer = content.answer or "" if isinstance(content, Task) else said(content, "").answer
    return [answer] if answer.strip() and len(questions_of(content)) == 1 else []


def asked_about(content: Content, new: Sequence[str]) -> Content:
    """The row with another question; a text as the answer to one."""
    if not isinstance(content, Text):
        return with_questions(content, new)
    question, answer = Message(role="user", content=new[0]), Message(role="assistant", content=content.text)
    return Conversation((question, answer))

"""Multiple choice: which option is the likeliest, or which letter is written; with a few solved questions before it."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from luthier.config import SourceConfig
from luthier.data.conversation import Choices, Content, Conversation, Message
from luthier.data.formats.base import read
from luthier.data.formats.choice import lettered
from luthier.data.recognise import files
from luthier.errors import RowError, UserError
from luthier.evaluate.kinds import AT_ONCE, Found, Likelihood, Portion, Subject
from luthier.inference.engine import Sampling

if TYPE_CHECKING:
    from luthier.data.pack import Example
    from luthier.data.render import Renderer, Tokens
    from luthier.evaluate.loss import RowLoss

SAID = re.compile(
    r"(?:answer|option|choice|答案|选项?|选择)\W{0,3}(?:is|is:|would be|应?[是为该])?\W{0,3}([A-Z])(?![A-Za-z])",
    re.IGNORECASE,
)
ALONE = re.compile(r"(?<![A-Za-z'])([A-Z])(?![A-Za-z'])")


class MultipleChoice(Likelihood):
    """Accuracy on questions with options, as lm-evaluation-harness has it."""

    type: Literal["choice"] = "choice"
    by: Literal["letter", "text", "generated"] = "letter"
    """What is compared: the likelihood of letters behind lettered options (as MMLU is measured), of the options' texts
    behind the question alone (as ARC is), or the letter that the model writes."""
    prompt: Literal["auto", "chat", "plain"] = "auto"
    """Through the chat template as in training, or as plain text that ends in `Answer:`; auto: chat where there is a
    template."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Solved questions before each, of its subject where the row has one."""
    shots_from: str | None = None
    """The file that has them."""
    instruction: str = ""
    """What stands before everything; `{subject}` is the row's."""

    def takes(self, content: Content) -> bool:
        """Questions with options."""
        return isinstance(content, Choices)

    def portions(self, rows: Sequence[Example], subject: Subject) -> list[Portion]:
        """As every likelihood is measured; or as answers are asked for."""
        if self.shots and self.shots_from is None:
            raise UserError("evaluate: choice: shots: say shots_from=FILE, a file of solved questions")
        if self.by != "generated":
            return super().portions(rows, subject)
        asked = [_choices(row) for row in rows]

        def answered(group: list[int]) -> Sequence[Found]:
            prompts = [self._chat(asked[i]) for i in group]
            said = dict(subject.engine.generate(prompts, Sampling(subject.config.max_new_tokens)))
            return [_judged(asked[i], said[place]) for place, i in enumerate(group)]

        order = sorted(range(len(asked)), key=lambda i: (len(asked[i].question), i))
        groups = [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]
        return [(group, partial(answered, group)) for group in groups]

    def sequences(self, row: Example, renderer: Renderer) -> Sequence[Tokens]:
        """One for each option."""
        asked = _choices(row)
        plain = self.prompt == "plain" or (self.prompt == "auto" and not renderer.tokenizer.chat_template)
        before = self._plain(asked) if plain else renderer.prompt_text(self._chat(asked).messages)
        lead = " " if plain else ""
        return [renderer.continued(before, lead + said, special=plain) for said in self._options(asked)]

    def found(self, row: Example, losses: Sequence[RowLoss]) -> Found:
        """Whether the likeliest is right; and the likeliest per character, since long options are unlikely."""
        asked, likely = _choices(row), np.array([-loss.total for loss in losses])
        options = self._options(asked)
        best, normed = int(likely.argmax()), int((likely / [len(said) for said in options]).argmax())
        counts = {"acc": [float(best == asked.right), 1.0], "acc_norm": [float(normed == asked.right), 1.0]}
        return Found(counts, options[best], options[asked.right], more={"logprobs": likely.tolist()})

    def _options(self, asked: Choices) -> Sequence[str]:
        return asked.options if self.by == "text" else string.ascii_uppercase[: len(asked.options)]

    def _chat(self, asked: Choices) -> Conversation:
        """The turns up to the answer."""
        said = [Message(role="system", content=self._instructed(asked))] if self.instruction else asked.messages[:-2]
        solved = [turn for shot in self._shots(asked) for turn in self._turns(shot)]
        return Conversation((*said, *solved, self._turns(asked)[0]))

    def _turns(self, shot: Choices) -> tuple[Message, Message]:
        question = shot.stem if self.by == "text" else lettered(shot.stem, shot.options)
        said = self._options(shot)[shot.right]
        return Message(role="user", content=question), Message(role="assistant", content=said)

    def _plain(self, asked: Choices) -> str:
        """The text up to `Answer:`, as lm-evaluation-harness writes it."""

        def one(shot: Choices) -> str:
            return f"Question: {shot.stem}" if self.by == "text" else lettered(shot.stem.strip(), shot.options)

        solved = [f"{one(shot)}\nAnswer: {self._options(shot)[shot.right]}" for shot in self._shots(asked)]
        head = [self._instructed(asked)] if self.instruction else []
        return "\n\n".join([*head, *solved, f"{one(asked)}\nAnswer:"])

    def _instructed(self, asked: Choices) -> str:
        return self.instruction.replace("{subject}", asked.subject.replace("_", " "))

    def _shots(self, asked: Choices) -> Sequence[Choices]:
        """The first of its subject, or of all where there is none; never the question itself."""
        others = [shot for shot in self._solved if shot.stem != asked.stem] if self.shots else []
        near = [shot for shot in others if shot.subject == asked.subject] or others
        if len(near) < self.shots:
            raise UserError(
                f"evaluate: choice: shots: {self.shots}, and {self.shots_from} has {len(near)} for {asked.stem[:60]!r}"
            )
        return near[: self.shots]

    @cached_property
    def _solved(self) -> list[Choices]:
        found = []
        for file in files(SourceConfig(path=str(self.shots_from))):
            for row in file.rows:
                try:
                    content = read(file.format, row)
                except RowError:
                    continue
                found += [content] if isinstance(content, Choices) else []
        return found


def _choices(row: Example) -> Choices:
    assert isinstance(row.content, Choices)
    return row.content


def _judged(asked: Choices, said: str) -> Found:
    right, letter = string.ascii_uppercase[asked.right], written(said, len(asked.options))
    return Found({"acc": [float(letter == right), 1.0], "no_letter": [float(not letter), 1.0]}, said, right)


def written(said: str, options: int) -> str:
    """The letter that an answer means: after `answer is`, else the first that stands alone; empty where none does."""
    allowed = string.ascii_uppercase[:options]
    told = [letter.upper() for letter in SAID.findall(said)] + ALONE.findall(said)
    return next((letter for letter in told if letter in allowed), "")

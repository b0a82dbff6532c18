"""Rows in other words: some of a row's words replaced by synonyms, everywhere in the row alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from luthier.data.augment.base import Augmenter, AugmenterSettings, Candidate, chance
from luthier.data.augment.facts import open_text
from luthier.data.augment.rewrite import Of, rewritten, unchanged
from luthier.data.augment.words import Chinese, English
from luthier.data.conversation import Content

LANGUAGES: dict[str, type[English | Chinese]] = {"en": English, "zh": Chinese}


class Synonyms(AugmenterSettings):
    """Replace words by synonyms: of WordNet (`luthier models fetch wordnet`) and, for Chinese, Cilin (`... cilin`)."""

    type: Literal["synonyms"] = "synonyms"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of a row's words with a synonym that are replaced; at least one is."""
    of: Of = "question"
    """Which turns of conversations change; words that also stand in other turns never do."""
    languages: Annotated[list[Literal["en", "zh"]], Field(min_length=1)] = Field(default=["en"])
    """Languages whose words are replaced."""

    def build(self) -> Augmenter:
        """Load the words."""
        return _Synonyms(self, [LANGUAGES[language]() for language in self.languages])


class _Synonyms:
    def __init__(self, settings: Synonyms, words: Sequence[English | Chinese]) -> None:
        self.settings, self.words = settings, words

    def make(self, rows: Sequence[Content]) -> Iterator[Candidate]:
        """Each row by itself."""
        of = self.settings.of
        for number, content in enumerate(rows):
            options: dict[str, tuple[str, ...]] = {}
            rewritten(content, partial(self._collect, kept=unchanged(content, of), into=options), of)
            made: list[Content] = []
            for copy in range(self.settings.copies if options else 0):
                random = chance(self.settings.seed, content, copy)
                count = max(1, round(self.settings.share * len(options)))
                chosen = {word: random.choice(options[word]) for word in random.sample(sorted(options), count)}
                said = rewritten(content, partial(self._said, chosen=chosen), of)
                if said not in made:
                    made.append(said)
                    yield Candidate(number, said, self.settings.type)

    def _collect(self, text: str, *, kept: str, into: dict[str, tuple[str, ...]]) -> str:
        """Note the words of a text that have synonyms, where neither stands in what is kept, of the text itself too."""
        kept += "".join(one if hidden == "\0" else " " for one, hidden in zip(text, open_text(text), strict=True))
        there = set(re.findall(r"\w+", kept.lower()))
        for start, end, options in self._found(text):
            left = tuple(one for one in options if not _stands(one, kept, there))
            if left and not _stands(text[start:end], kept, there):
                into[text[start:end]] = left
        return text

    def _said(self, text: str, *, chosen: dict[str, str]) -> str:
        pieces, behind = [], 0
        for start, end, _ in self._found(text):
            pieces += [text[behind:start], chosen.get(text[start:end], text[start:end])]
            behind = end
        return "".join([*pieces, text[behind:]])

    def _found(self, text: str) -> list[tuple[int, int, tuple[str, ...]]]:
        opened = open_text(text)
        return sorted(one for words in self.words for one in words.found(opened))


def _stands(word: str, text: str, words: set[str]) -> bool:
    """Whether a text of these words holds a word; of Chinese, anywhere, since words are not told apart."""
    if word.isascii() and word.isalnum():
        return word.lower() in words
    edge = r"\b" if word.isascii() else ""
    return re.search(f"{edge}{re.escape(word)}{edge}", text, re.IGNORECASE) is not None

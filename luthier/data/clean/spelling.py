"""Obvious misspellings in English prose (symspellpy, its own dictionary of frequencies).

Only what leaves no doubt: a lower-case word that no dictionary has, one letter away from one frequent word and from no
other. Code, names, numbers, addresses, quotations and tool calls stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.data.clean.base import NO_TEXT, Cleaner, CleanerSettings
from luthier.data.clean.repair import CODE
from luthier.data.language import language
from luthier.supplies import library, shipped

WORD = re.compile(r"(?<![\w'’@#$%&/\\.:=+*_<>~^|-])[a-z]{5,}(?!['’@/\\:=+*_<>~^|(\[{.-]?\w|[\[({])")
"""Words of small letters that are no part of a name, an address or a formula."""
LEFT = re.compile(CODE.pattern + r"|https?://\S+|\"[^\"\n]*\"|“[^”\n]*”|'[^'\n]*'(?!\w)|\$[^$\n]*\$", CODE.flags)
"""What is left as it is: code, addresses, quotations, formulas."""
_WORDS = shipped("luthier.data.clean", "spelling.yaml")
NO_PROSE = NO_TEXT.union(_WORDS["no_prose"])
"""Keys under which nothing is prose."""
CALLS = frozenset(_WORDS["calls"])
"""Who says what is no prose."""
LIKELY = 0.9
"""How likely a row must be English."""
VARIANTS: list[list[str]] = _WORDS["variants"]
"""How British and American spelling differ; the dictionary often has only one of them."""
READ = 4000
"""Characters of a row of which its language is told."""


class Spelling(CleanerSettings):
    """Mend obvious misspellings of English; what may be a name or a term stays."""

    type: Literal["spelling"] = "spelling"
    min_count: Annotated[int, Field(gt=0)] = 2_000_000
    """How often the word that is meant must occur in the dictionary's texts (of 10^12 words)."""
    clear: Annotated[float, Field(ge=1)] = 20.0
    """How many times more often than the next one."""

    def build(self) -> Cleaner:
        """Load symspellpy's dictionary."""
        words = library("symspellpy", "spelling", "clean").SymSpell(max_dictionary_edit_distance=1)
        words.load_dictionary(str(files("symspellpy") / "frequency_dictionary_en_82_765.txt"), 0, 1)
        language("a")
        return _Spelling(self, words)


class _Spelling(Cleaner):
    def __init__(self, settings: Spelling, words: Any) -> None:
        self.settings, self.words = settings, words
        self.meant: Callable[[str], str] = cache(self._meant)

    def mend_row(self, value: Any) -> Any:
        """Misspellings mended where a row is English; a word that it says twice is meant so."""
        prose: list[str] = []

        def heard(text: str) -> str:
            prose.append(text)
            return text

        _prose(value, heard)
        seen = Counter(word for text in prose for word in WORD.findall(text))
        wrong = {word for word, count in seen.items() if count == 1 and self.meant(word) != word}
        if not wrong:
            return value
        code, likely = language(" ".join(prose)[:READ])
        return _prose(value, lambda text: self._mended(text, wrong)) if code == "en" and likely >= LIKELY else value

    def _mended(self, text: str, wrong: set[str]) -> str:
        pieces, end = [], 0
        for left in LEFT.finditer(text):
            pieces += [self._replaced(text[end : left.start()], wrong), left.group()]
            end = left.end()
        return "".join([*pieces, self._replaced(text[end:], wrong)])

    def _replaced(self, text: str, wrong: set[str]) -> str:
        return WORD.sub(lambda word: self.meant(word.group()) if word.group() in wrong else word.group(), text)

    def _meant(self, word: str) -> str:
        """The word that is meant; the same where it is one, or where there is a doubt."""
        from symspellpy import Verbosity

        near = self.words.lookup(word, Verbosity.ALL, max_edit_distance=1)
        if not near or near[0].distance == 0:
            return word
        best, others = near[0], [one.count for one in near[1:]]
        clear = best.count >= self.settings.min_count and best.count >= self.settings.clear * max(others, default=0)
        ends = best.term[0] == word[0] and best.term[-1] == word[-1]  # other ends are other forms: tokenizer, tokenized
        elsewhere = any(_american(one.term) == _american(word) for one in near)
        return best.term if clear and ends and not elsewhere else word


def _american(word: str) -> str:
    """A word without what British and American spelling differ in."""
    for british, american in VARIANTS:
        word = word.replace(british, american)
    return word


def _prose(value: Any, mend: Callable[[str], str]) -> Any:
    """A row's value with what its speakers say mended; not calls, their results, JSON, nor single words."""
    if isinstance(value, list):
        return [_prose(one, mend) for one in value]
    if isinstance(value, dict):
        if CALLS & {value.get("role"), value.get("from")}:
            return value
        return {key: one if key in NO_PROSE else _prose(one, mend) for key, one in value.items()}
    return mend(value) if isinstance(value, str) and " " in value and value.lstrip()[:1] not in ("{", "[") else value

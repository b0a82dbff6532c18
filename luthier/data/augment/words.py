"""Words and what can stand for them: English from WordNet (Fellbaum 1998), Chinese from Tongyici Cilin (Mei 1983).

A word is replaced only where no context is needed to know what it means; where in doubt, it is left alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from luthier.data.augment.facts import words_of
from luthier.errors import DataError
from luthier.supplies import library
from luthier.system.home import home

SURE = 0.6
"""Share of a word's uses, counted by WordNet's makers, that must have its first sense."""
USED, FIRST = 3, 0.05
"""Uses of a synonym in that sense: at least so many, and such a share of those of the word itself."""
SHORT = 4
"""Letters of an English word below which it is left alone, as are abbreviations."""
KINDS = {"1": "NOUN", "2": "VERB", "3": "ADJ", "4": "ADV", "5": "ADJ"}
"""WordNet's numbers of parts of speech."""
ENGLISH = re.compile(r"(?<![\w'’./\\@#&*+=~-])(?:[A-Z]?[a-z]+)(?![\w'’/\\@#(=_~*-]|\.\w)")
CHINESE = re.compile("[\u4e00-\u9fff]{2,}")
FEW, COMMON, RARER = 12, 100, 10
"""Words of a Chinese group at most (larger ones are loose); least uses of a synonym; how much rarer it may be."""
CONTENT = frozenset({"n", "v", "vn", "a", "ad", "d", "c"})
"""Tags of Chinese words that are no names, numbers, pronouns or particles."""


class English:
    """WordNet's first senses, with the word's inflection and the first letter that `a` and `an` look at."""

    def __init__(self) -> None:
        self.forms = library("lemminflect", "synonyms", "augment")
        self.particles = words_of("particles")
        self.uses: dict[str, Counter[str]] = {}
        self.first: dict[tuple[str, str], tuple[str, int]] = {}
        self.same: dict[str, list[str]] = {}
        for line in _fetched("wordnet", "index.sense").splitlines():
            key, place, sense, uses = line.split()
            if uses == "0":
                continue
            word, kind = key.partition("%")[0], KINDS[key.partition("%")[2][0]]
            self.uses.setdefault(word, Counter())[kind] += int(uses)
            if sense == "1":
                self.first[word, kind] = kind + place, int(uses)
                self.same.setdefault(kind + place, []).append(word)

    def found(self, text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Capitalised words that may be names are left alone; whoever calls has taken those within sentences away."""
        for match in ENGLISH.finditer(text):
            word = match.group()
            kind, options = self._options(word.lower())
            if options and not (word[0].isupper() and kind == "NOUN"):
                yield *match.span(), tuple(o.capitalize() if word[0].isupper() else o for o in options)

    @cache  # noqa: B019 - lives as long as the process
    def _options(self, word: str) -> tuple[str, tuple[str, ...]]:
        meant = [(kind, lemma) for kind, lemmas in self.forms.getAllLemmas(word).items() for lemma in lemmas]
        if (
            len(word) < SHORT
            or len(meant) != 1
            or word in self.particles
            or (word != meant[0][1] and word in self.uses)
        ):
            return "", ()
        (kind, lemma), vowel = meant[0], word[0] in "aeiou"
        if not self._sure(lemma, kind):
            return "", ()
        place, uses = self.first[lemma, kind]
        near = [
            other
            for other in self.same[place]
            if other != lemma and other.isalpha() and len(other) >= SHORT and self._sure(other, kind)
            and self.first[other, kind][1] >= max(USED, FIRST * uses)
        ]  # fmt: skip
        formed = [self._inflected(other, lemma, word, kind) for other in near]
        return kind, tuple(sorted(form for form in formed if form and (form[0] in "aeiou") == vowel))

    def _sure(self, word: str, kind: str) -> bool:
        """Whether a word is hardly ever anything but its first sense."""
        uses = self.first.get((word, kind), ("", 0))[1]
        return uses > 0 and uses >= SURE * self.uses[word].total()

    def _inflected(self, other: str, lemma: str, word: str, kind: str) -> str:
        """Another word in the form that a word has of its lemma; nothing where that may be several."""
        own, others = self._forms(lemma, kind), self._forms(other, kind)
        forms = {others.get(tag, ("",))[0] for tag, written in own.items() if word in written}
        return forms.pop() if len(forms) == 1 else ""

    def _forms(self, lemma: str, kind: str) -> dict[str, tuple[str, ...]]:
        forms: dict[str, tuple[str, ...]] = self.forms.getAllInflections(lemma, kind)
        return forms | ({"VBN": forms["VBD"]} if "VBD" in forms and "VBN" not in forms else {})


class Chinese:
    """Words of one group of Cilin that say the same (`=`), and of no other; they differ by a character of one sense."""

    def __init__(self) -> None:
        self.cut = library("rjieba", "synonyms in Chinese", "augment")
        groups = list(_groups(json.loads(_fetched("cilin", "cilin_tree.json"))))
        stands = Counter(word for _, group in groups for word in set(group))
        self.near: dict[str, list[str]] = {}
        self.senses: dict[str, set[int]] = {}
        for number, group in enumerate(group for name, group in groups if name.endswith("=")):
            alone = [word for word in group if stands[word] == 1 and len(word) > 1 and len(group) <= FEW]
            self.near |= dict.fromkeys(alone, alone)
            for character in (word for word in group if len(word) == 1):
                self.senses.setdefault(character, set()).add(number)

    def found(self, text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Words as they are cut; names, numbers and what is in no dictionary are left alone."""
        for run in CHINESE.finditer(text):
            start = run.start()
            for word, tag in self.cut.tag(run.group()):
                if options := self._options(word, tag):
                    yield start, start + len(word), options
                start += len(word)

    @cache  # noqa: B019 - lives as long as the process
    def _options(self, word: str, tag: str) -> tuple[str, ...]:
        if tag not in CONTENT or word not in self.near or self._tag(word) != tag:
            return ()
        enough = max(COMMON, self.cut.suggest_freq(word) / RARER)
        return tuple(
            other
            for other in self.near[word]
            if self._alike(word, other) and self._tag(other) == tag and self.cut.suggest_freq(other) >= enough
        )

    def _alike(self, word: str, other: str) -> bool:
        if len(word) != len(other):
            return False
        pairs = [(one, two) for one, two in zip(word, other, strict=True) if one != two]
        return len(pairs) == 1 and bool(self.senses.get(pairs[0][0], set()) & self.senses.get(pairs[0][1], set()))

    def _tag(self, word: str) -> str:
        """The tag of a word of the dictionary."""
        tagged = self.cut.tag(word)
        return str(tagged[0][1]) if len(tagged) == 1 and self.cut.has_word(word) else ""


def _groups(tree: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for name, inner in tree.items():
        if isinstance(inner, list):
            yield name, inner
        else:
            yield from _groups(inner["sub"])


def _fetched(name: str, file: str) -> str:
    path = home() / "models" / name / file
    if not path.is_file():
        raise DataError(
            f"synonyms need {name}, which is not on this machine yet; fetch it: luthier models fetch {name}"
        )
    return path.read_text(encoding="utf-8")

"""What the board says, in the languages of `text/`; every text is there, none in code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from luthier.supplies import shipped

LANGUAGES = {"en": "English", "zh": "中文"}


@cache
def texts(language: str) -> Mapping[str, str]:
    """The texts of a language, by keys such as `train.start`."""
    tree = shipped("luthier.web", f"text/{language}.yaml")
    return {f"{part}.{key}": said for part, inner in tree.items() for key, said in inner.items()}


@cache
def helps(language: str) -> Mapping[str, str]:
    """What keys and options are for, by what the code says in English; what is missing stays English."""
    return {} if language == "en" else shipped("luthier.web", f"text/{language}_help.yaml")


class Speaker:
    """Says texts in one language."""

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **values: object) -> str:
        """A text with values in it; raises KeyError where there is none, so that a test finds it."""
        return texts(self.language)[key].format(**values)

    def about(self, text: str) -> str:
        """A help of the code, or of a plug-in."""
        return helps(self.language).get(" ".join(text.split()), text)

    def known(self, key: str) -> str:
        """A text that need not be there; else nothing."""
        return texts(self.language).get(key, "")


def preferred(accepted: str) -> str:
    """The language that a browser prefers (RFC 9110, Accept-Language), of those that the board speaks."""
    wishes = []
    for place, one in enumerate(accepted.split(",")):
        name, _, quality = one.strip().partition(";q=")
        try:
            wishes.append((-float(quality or 1), place, name[:2].lower()))
        except ValueError:
            continue
    return next((name for _, _, name in sorted(wishes) if name in LANGUAGES), "en")

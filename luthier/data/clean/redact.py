"""What should not be learnt by heart: secrets, and personal data. Each is replaced by its kind, or its row dropped.

Numbers count only where their checksum says that they are what they look like; where one has none, a word beside it
must say so.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said
from luthier.supplies import library, shipped

Spot = tuple[int, int, str]
"""From, to, and what it is."""
ENTROPY = 3.0
"""Bits a character that a value has at least which a name calls a secret; words and placeholders have less."""
DIGITS = re.compile(r"(?:\d[^\w\n]{0,4}){6}\d")
"""As many digits, near each other, as the shortest telephone numbers have that are told from other numbers."""
PLACEHOLDER = re.compile(r"(?i:your|example|placeholder|change.?me|xxx|\*\*\*|environ|getenv|process\.)|^[A-Z_]+$|^\$")
"""What stands for a secret where people write about one."""


class _Redaction(CleanerSettings):
    action: Literal["redact", "drop"] = "redact"
    """Replace what was found by its kind, as in [EMAIL], or drop the row."""
    rule: ClassVar[str]
    """What it is called where it drops a row."""

    @abstractmethod
    def find(self, text: str) -> Iterator[Spot]:
        """Where in a text something is that should not be learnt."""

    def mend(self, text: str) -> str:
        """What was found, by its kind."""
        return text if self.action == "drop" else redacted(text, list(self.find(text)))

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """Rows that hold some of it, where these are dropped."""
        if self.action == "redact":
            return [None] * len(rows)
        found = [sorted({kind for _, _, kind in self.find(row.text)}) for row in rows]
        return [Drop(self.rule, len(kinds), 1, f"holds {', '.join(kinds)}") if kinds else None for kinds in found]


class Secrets(_Redaction):
    """Keys, tokens, passwords in links and settings, private keys."""

    type: Literal["secrets"] = "secrets"

    rule: ClassVar[str] = "secret"

    def find(self, text: str) -> Iterator[Spot]:
        """Secrets."""
        return secrets(text)


class Personal(_Redaction):
    """Mail addresses, phone numbers, numbers of identity papers, cards, bank accounts and machines."""

    type: Literal["personal"] = "personal"
    rule: ClassVar[str] = "personal"
    regions: list[str] = Field(default=["US", "GB", "DE", "FR", "CN", "IN", "JP"])
    """Countries whose phone numbers are found without a leading +."""

    def build(self) -> Cleaner:
        """Load phonenumbers and python-stdnum."""
        for module in ("phonenumbers", "stdnum"):
            library(module, "personal", "clean", called="phonenumbers and python-stdnum")
        return self

    def find(self, text: str) -> Iterator[Spot]:
        """Personal data."""
        return personal(text, self.regions)


def redacted(text: str, spots: Sequence[Spot]) -> str:
    """A text with spots replaced by their kinds; of spots that overlap, the one that begins first and is longest."""
    pieces, end = [], 0
    for start, stop, kind in sorted(spots, key=lambda spot: (spot[0], -spot[1])):
        if start >= end:
            pieces += [text[end:start], f"[{kind}]"]
            end = stop
    return "".join([*pieces, text[end:]])


Kind = tuple[str, re.Pattern[str], list[re.Pattern[str]]]
"""Its name, what a text must hold for it, its patterns."""


@cache
def _kinds(of: str) -> tuple[re.Pattern[str], list[Kind]]:
    """What a text must hold for any, and each."""
    listed = shipped("luthier.data.clean", "patterns.yaml")[of]
    needs = [one.get("needs", r"\d") for one in listed.values()]
    kinds = [
        (name, re.compile(need), [re.compile(pattern) for pattern in one["patterns"]])
        for (name, one), need in zip(listed.items(), needs, strict=True)
    ]
    return re.compile("|".join(needs)), kinds


def _found(of: str, text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """What looks like something, and like what."""
    any_of, kinds = _kinds(of)
    if any_of.search(text):
        for name, needs, patterns in kinds:
            if needs.search(text):
                yield from ((name, found) for pattern in patterns for found in pattern.finditer(text))


def secrets(text: str) -> Iterator[Spot]:
    """Secrets by their form; a value that a name calls secret, where it looks like one."""
    for name, found in _found("secrets", text):
        group = 1 if found.re.groups else 0
        value = found.group(group)
        if name != "SECRET" or not (entropy(value) < ENTROPY or value.isalpha() or PLACEHOLDER.search(value)):
            yield found.start(group), found.end(group), name


def entropy(text: str) -> float:
    """Bits a character (Shannon 1948) of the characters of a text."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def personal(text: str, regions: Sequence[str]) -> Iterator[Spot]:
    """Personal data."""
    for name, found in _found("personal", text):
        valid, group = _checks().get(name), 1 if found.re.groups else 0
        if valid is None or valid(found.group(group)):
            yield found.start(group), found.end(group), name
    if DIGITS.search(text):
        yield from _phones(text, regions)


@cache
def _checks() -> dict[str, Callable[[str], bool]]:
    """Checksums of numbers."""
    import ipaddress

    from stdnum import iban, luhn
    from stdnum.cn import ric
    from stdnum.us import ssn

    def card(number: str) -> bool:
        digits = re.sub(r"\D", "", number)
        return bool(luhn.is_valid(digits)) and len(set(digits)) > 1

    def address(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).is_global
        except ValueError:
            return False

    return {"CARD": card, "IBAN": iban.is_valid, "ID_CN": ric.is_valid, "SSN": ssn.is_valid, "IP": address}


def _phones(text: str, regions: Sequence[str]) -> Iterator[Spot]:
    import phonenumbers

    found: set[tuple[int, int]] = set()
    for region in (None, *regions):
        leniency = phonenumbers.Leniency.VALID if region is None else phonenumbers.Leniency.STRICT_GROUPING
        if region == "CN":
            leniency = phonenumbers.Leniency.VALID
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=leniency):
            plain = match.raw_string.isdigit() and region not in (None, "CN")  # any number; Chinese mobiles are told
            if (match.start, match.end) not in found and not plain:
                found.add((match.start, match.end))
                yield match.start, match.end, "PHONE"

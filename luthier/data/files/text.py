"""Plain text and Markdown: one text a line, a paragraph, or a file.

Without a word of the config a text is a paragraph where empty lines lie between groups of lines, and a line where
there are none; Markdown is one text a file. Nothing of a text is changed but the line breaks around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from typing import Any

from luthier.data.files.base import How, Unit
from luthier.data.files.opened import LARGEST_ROW, TOO_LONG, Characters, Opened, RowTooLong
from luthier.errors import DataError

LOOKED_AT = 1000
"""Lines from which it is told what a text is."""


class PlainText:
    """Rows as strings."""

    suffixes = (".txt", ".text", ".md", ".markdown")

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each text with the line it starts on."""
        head, source = beginning(file, how, LOOKED_AT)
        unit = how.text_unit
        if unit == "auto":
            unit = "file" if file.suffix in (".md", ".markdown") else _unit(head)
        how.note = f"one text a {unit}"
        for line, text in _texts(source, unit):
            if len(text) > LARGEST_ROW:
                raise RowTooLong(f"{file}:{line}: {TOO_LONG} (text_unit: line, paragraph or file)")
            yield line, text


def beginning(file: Opened, how: How, count: int) -> tuple[list[str], Iterator[str]]:
    """The first lines of a file, and all of them; raises DataError where it is empty."""
    source = lines(how.text(file))
    head = list(islice(source, count))
    if not "".join(head).strip():
        raise DataError(f"{file}: the file is empty")
    return head, chain(head, source)


def lines(characters: Characters) -> Iterator[str]:
    r"""The lines of a text, each with its \n, where it has one. Other breaks are characters like any other.

    Raises:
        RowTooLong: a line of more characters than any row may have.
    """
    rest: list[str] = []
    held, number = 0, 1
    while piece := characters.read():
        *whole, last = piece.split("\n")
        for text in whole:
            yield "".join([*rest, text, "\n"])
            rest, held, number = [], 0, number + 1
        rest.append(last)
        held += len(last)
        if held > LARGEST_ROW:
            raise RowTooLong(f"{characters.file}:{number}: {TOO_LONG}")
    if held:
        yield "".join(rest)


def _unit(head: Iterable[str]) -> Unit:
    """Paragraphs, where empty lines lie between groups of lines; lines, where each stands alone."""
    groups = [len(list(group)) for blank, group in groupby(head, key=lambda text: not text.strip()) if not blank]
    return "paragraph" if len(groups) > 1 and max(groups) > 1 else "line"


def _texts(source: Iterable[str], unit: Unit) -> Iterator[tuple[int, str]]:
    group: list[str] = []
    start = size = 0
    for number, text in enumerate(source, 1):
        blank = not text.strip()
        if group and (unit == "line" or (unit == "paragraph" and blank) or size > LARGEST_ROW):
            yield start, "".join(group).strip("\r\n")
            group, size = [], 0
        if group or not blank:
            start = start if group else number
            group.append(text)
            size += len(text)
    if group:
        yield start, "".join(group).strip("\r\n")

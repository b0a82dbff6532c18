"""A kind of file gives values, one row each, with the line each starts on.

What it does: takes a file's bytes or characters apart into JSON values.
What it must not know: layouts of rows, tokenizers, configs.
How to add one: one file here with a class like the ones beside it, one line under `file` in `plugins.yaml`
(or an entry point `luthier.file` in a package of your own).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from luthier import plugins
from luthier.data.files.opened import LARGEST_ROW, TOO_LONG, Characters, Opened, RowTooLong
from luthier.errors import DataError

Unit = Literal["auto", "line", "paragraph", "file"]


@dataclass(slots=True)
class How:
    """How a file is to be read, and, as it is, how that has been."""

    encoding: str = "auto"
    text_unit: Unit = "auto"
    sheet: str | None = None
    characters: Characters | None = None
    note: str = ""

    def text(self, file: Opened) -> Characters:
        """The file as text."""
        self.characters = Characters(file, self.encoding)
        return self.characters

    def whole(self, file: Opened) -> str:
        """The text of a file that can only be read at once, and must not be longer than a row; raises RowTooLong."""
        characters, pieces, size = self.text(file), list[str](), 0
        while piece := characters.read():
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST_ROW:
                raise RowTooLong(f"{file}: {TOO_LONG} {file.suffix} is read whole; write it as JSON Lines")
        return "".join(pieces)

    @property
    def found(self) -> str:
        """What was found, for the user; UTF-8 is not worth a word."""
        encoding = str(self.characters or "utf-8")
        return ", ".join(part for part in ("" if encoding == "utf-8" else encoding, self.note) if part)


class FileKind(Protocol):
    """One kind of file."""

    suffixes: ClassVar[tuple[str, ...]]
    """Names of such files end with one of these, behind which packing may follow (`.jsonl.gz`)."""

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each value with its line, or with its number where the file has no lines.

        Raises:
            DataError: what is there cannot be read, with the line.
        """


def suffixes() -> dict[str, str]:
    """Endings of names, and the kinds of files they stand for."""
    kinds = {name: plugins.load("file", name) for name in plugins.names("file")}
    return {suffix: name for name, kind in kinds.items() for suffix in kind.suffixes}


def kind_of(file: Opened) -> FileKind:
    """The kind of a file, from what it is called.

    Raises:
        DataError: none is called so.
    """
    known = suffixes()
    if file.suffix not in known:
        kind = file.suffix or "files without a suffix"
        raise DataError(f"{file}: cannot read {kind}; allowed: {', '.join(known)}, also packed as .gz, .bz2 or .zst")
    found: FileKind = plugins.load("file", known[file.suffix])()
    return found

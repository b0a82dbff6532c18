"""What a page may ask for: files of the folder that the board was started for, and nothing else of the machine."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from luthier.config import value_of
from luthier.errors import ConfigError, UserError
from luthier.system.address import loopback
from luthier.web.forms import texts

MOST_BYTES = 2 * 2**30
"""Of a file that is dropped."""
KINDS = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".parquet", ".arrow", ".xlsx", ".yaml", ".po", ".gz", ".zst",
         ".bz2")  # fmt: skip
"""Endings of files that are taken: what the data room reads."""

REGISTERED = re.compile(r"models:/\w[\w.-]*[/@]\w[\w.-]*")
"""Names of the registry, which keeps its folders to itself."""
ENDPOINT = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?(#.*)?")


def inside(folder: Path, said: Iterable[str], *, code: bool = False) -> None:
    """Refuse words that lead out of a folder, also within a setting, and files of code where none is run.

    Raises:
        UserError: names the word.
    """
    home = folder.resolve()
    for word in said:
        for named in () if REGISTERED.fullmatch(word) else _names(word):
            try:
                place = Path(named).expanduser() if named.startswith("~") else home / named
                away = bool(named) and not place.resolve().is_relative_to(home)
            except (OSError, ValueError, RuntimeError):
                away = True
            if away:
                raise UserError(f"{word!r} leads out of {home}, the folder of this board; use a path within it")
            if named.lower().endswith(".py") and not code:
                raise UserError(f"{word!r}: the board writes no code; choose another ending")


def _names(word: str) -> Iterator[str]:
    """What a word may name: itself, what stands behind an equals sign or a colon, each text of a setting."""
    yield word.strip()
    if not ENDPOINT.fullmatch(word):
        yield from re.split(r"\s*[=,]\s*|:", word)
        with suppress(ConfigError):
            yield from texts(value_of(word.partition("=")[2], source=word))


def foreign(headers: Mapping[str, str], *, known: bool) -> bool:
    """Whether another site asks in the name of a visitor's browser, or by a name that it gave to this machine.

    Where visitors are known by a password, the board may have any name: their browsers keep it to that name.
    """
    host = headers.get("host", "")
    named = urlsplit(f"//{host}").hostname or ""
    return not (known or loopback(named)) or urlsplit(headers.get("origin", f"//{host}")).netloc != host


def numbered(path: str) -> Iterator[str]:
    """A path, and further ones: `a.csv`, `a-2.csv`, `a-3.csv`."""
    plain = PurePath(path)
    yield path
    yield from (str(plain.with_name(f"{plain.stem}-{number}{plain.suffix}")) for number in count(2))


def kept(folder: Path, file: Path) -> str:
    """Copy a dropped file into the folder's `data`, under a plain name; returns its path within the folder.

    Raises:
        UserError: it is too large, or of a kind that is not read.
    """
    if file.suffix.lower() not in KINDS:
        raise UserError(f"{file.name}: files that end in {', '.join(KINDS)} are taken")
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file.name}: larger than {MOST_BYTES / 2**30:g} GB; copy it into {folder} by hand")
    place = folder / "data"
    place.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", file.name).lstrip(".-") or "rows"
    names = map(Path, numbered(str(place / name)))
    target = next(one for one in names if not one.exists() or filecmp.cmp(one, file, shallow=False))
    shutil.copyfile(file, target)
    return str(target.relative_to(folder))

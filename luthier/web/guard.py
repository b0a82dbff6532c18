"""What a page may ask for: files of the folder that the board was started for, and nothing else of the machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from luthier.errors import UserError

MOST_BYTES = 2 * 2**30
"""Of a file that is dropped."""
KINDS = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".parquet", ".arrow", ".xlsx", ".yaml", ".po", ".gz", ".zst",
         ".bz2", ".png")  # fmt: skip
"""Endings of files that are taken: what the data room reads."""

REGISTERED = re.compile(r"models:/\w[\w.-]*[/@]\w[\w.-]*")
"""Names of the registry, which keeps its folders to itself."""


def inside(folder: Path, said: Iterable[str]) -> None:
    """Refuse words that lead out of a folder, also behind an equals sign or a colon.

    Raises:
        UserError: names the word.
    """
    home = folder.resolve()
    for word in said:
        if REGISTERED.fullmatch(word):
            continue
        for part in (word, *re.split(r"[=:,]", word)):
            named = part.strip()
            place = Path(named).expanduser() if named.startswith("~") else home / named
            try:
                away = bool(named) and not place.resolve().is_relative_to(home)
            except (OSError, ValueError):
                away = True
            if away:
                raise UserError(f"{word!r} leads out of {home}, the folder of this board; use a path within it")


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
    target, number = place / name, 2
    while target.exists() and target.read_bytes() != file.read_bytes():
        target, number = place / f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
    shutil.copyfile(file, target)
    return str(target.relative_to(folder))

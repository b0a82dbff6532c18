"""The card of a model, as the model hub reads it, made of what its folder says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.registry.origin import origin_of, read_json
from luthier.supplies import filled
from luthier.tracking.run import INPUTS, RunFolder


def card(folder: Path, *, title: str = "", parents: Sequence[str] = ()) -> str:
    """The text of README.md for a run, a version, or whatever else says what it was made of.

    `parents` names what it stands on, where its folder has only paths of this machine.

    Raises:
        OutputError: an unfinished run, or nothing says what it was made of.
    """
    told: dict[str, Any] = {name: read_json(folder / file) for name, file in FILES.items()}
    origin = origin_of(folder)
    told |= {"title": title or folder.resolve().name, "origin": origin, "parents": list(parents or origin.parents)}
    told |= {"config": (RunFolder(folder).record() or {}).get("config")}
    # what could end the head of the card is written as JSON strings
    adapter = (folder / "adapter_config.json").is_file()
    return filled("luthier.registry", "card.md.jinja", **told, adapter=adapter)


FILES = {"inputs": INPUTS, "environment": "environment.json", "ledger": "rows.json"}

"""The one folder of Luthier's own on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`LUTHIER_HOME`, or `~/.cache/luthier`. Holds fetched models, rendered rows, answers of models; can be deleted."""
    return Path(os.environ.get("LUTHIER_HOME") or Path.home() / ".cache" / "luthier").expanduser()

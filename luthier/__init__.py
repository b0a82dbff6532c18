"""Luthier: fine-tune language models, with proof that what came out is what was asked for."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Factory", "RunConfig", "__version__", "read_config"]

_PUBLIC = {"Factory": "luthier.factory", "RunConfig": "luthier.config", "read_config": "luthier.config"}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used (PEP 562), so `import luthier` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)

"""Environment variables that one part of Luthier sets for another."""

from __future__ import annotations

BOARD = "LUTHIER_BOARD"
"""The folder of a board, beyond which no `dataset_info.json` leads what it starts."""
KEY = "LUTHIER_KEY"
"""A key that a server shall ask for, instead of a new one; it is not printed."""

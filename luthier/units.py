"""Quantities with their unit: `Duration` (epochs, steps, tokens) and `ByteSize`, parsed and printed.

Does not know what a step is worth: `Duration.steps` is told the length of an epoch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

Unit = Literal["epochs", "steps", "tokens"]
_NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
_DURATION = re.compile(rf"\s*{_NUMBER}\s*(epoch|step|token)s?\s*")
_SIZE = re.compile(rf"\s*{_NUMBER}\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


class _Parsed:
    """Shared pydantic wiring: a class with `parse` and `__str__` becomes a config value."""

    @classmethod
    def parse(cls, value: object) -> Any:
        raise TypeError(f"{cls.__name__} cannot be parsed from {value!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, {"type": "number"}], "title": cls.__name__}


@dataclass(frozen=True, slots=True)
class Duration(_Parsed):
    """A length of training: `3 epochs`, `500 steps` or `2e9 tokens`. A bare number means steps."""

    value: float
    unit: Unit

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Read a duration.

        Raises:
            ValueError: not a positive number of epochs, steps or tokens.
        """
        if isinstance(value, Duration):
            return value
        text = f"{value} steps" if isinstance(value, int | float) and not isinstance(value, bool) else value
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if match is None or not float(match[1]) > 0 or math.isinf(float(match[1])):
            raise ValueError(f"{value!r} is not a duration; write '3 epochs', '500 steps' or '2e9 tokens'")
        number = float(match[1])
        if match[2] != "epoch" and number != int(number):
            raise ValueError(f"{value!r}: a number of {match[2]}s is whole")
        units: dict[str, Unit] = {"epoch": "epochs", "step": "steps", "token": "tokens"}
        return cls(number, units[match[2]])

    def __str__(self) -> str:
        number = int(self.value) if self.value == int(self.value) else self.value
        return f"{number} {self.unit[:-1] if self.value == 1 else self.unit}"

    def steps(self, *, steps_per_epoch: int, tokens_per_step: float) -> int:
        """The duration in optimizer steps, rounded up, at least 1."""
        scale = {"epochs": steps_per_epoch, "steps": 1.0, "tokens": 1.0 / max(tokens_per_step, 1.0)}
        return max(1, math.ceil(self.value * scale[self.unit] - 1e-9))


@dataclass(frozen=True, slots=True)
class ByteSize(_Parsed):
    """A number of bytes: `4 GB` (10^9), `4 GiB` (2^30) or a bare number."""

    bytes: int

    @classmethod
    def parse(cls, value: object) -> ByteSize:
        """Read a size.

        Raises:
            ValueError: not a number of bytes.
        """
        if isinstance(value, ByteSize):
            return value
        match = _SIZE.fullmatch(str(value)) if isinstance(value, int | float | str) else None
        if match is None or isinstance(value, bool) or math.isinf(float(match[1])):
            raise ValueError(f"{value!r} is not a size; write '4 GB', '512 MiB' or a number of bytes")
        base = 1024 if match[3] else 1000
        return cls(int(float(match[1]) * base ** (" KMGT".index(match[2].upper() or " "))))

    def __str__(self) -> str:
        size, unit = float(self.bytes), "B"
        for unit in ("B", "kB", "MB", "GB", "TB"):
            if size < 1000 or unit == "TB":
                break
            size /= 1000
        return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.2g} {unit}"

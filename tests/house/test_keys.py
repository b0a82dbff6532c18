"""The list of all config keys: a change is a change of what users may write, so it shows in a diff."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from luthier.config import RunConfig
from luthier.plugins import BUILT_IN, Choice, Settings, load

SNAPSHOT = Path(__file__).parent / "keys.txt"


def keys(section: type[Settings], prefix: str = "") -> Iterator[str]:
    """All keys below a section, those of every built-in part included."""
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        marks = [*field.metadata, *(m for t in _inside(field.annotation) for m in getattr(t, "__metadata__", ()))]
        kind = next((mark.kind for mark in marks if isinstance(mark, Choice)), None)
        inner = [t for t in _inside(field.annotation) if isinstance(t, type) and issubclass(t, Settings)]
        if kind is not None:
            yield path
            for part in BUILT_IN[kind]:
                yield from keys(load(kind, part), f"{path}.{part}.")
        elif inner:
            yield path
            for one in inner:
                yield from keys(one, f"{path}.")
        elif name != "type":
            yield path


def _inside(annotation: object) -> list[object]:
    """An annotation and everything it is made of."""
    return [annotation, *(t for inner in getattr(annotation, "__args__", ()) for t in _inside(inner))]


def test_the_keys_are_the_ones_on_record() -> None:
    now = sorted(set(keys(RunConfig)))
    assert now == SNAPSHOT.read_text(encoding="utf-8").splitlines(), (
        "the config's keys changed; write them anew with: python -m tests.house.test_keys"
    )


def test_every_key_says_what_it_means() -> None:
    from luthier.cli.config import explained

    for key in keys(RunConfig):
        lines = explained(key)
        assert len(lines[0].removeprefix(f"{key}:").strip()) > 8, key


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(sorted(set(keys(RunConfig)))) + "\n", encoding="utf-8")

"""Candidates through guards, into a folder; and that no row which is held out comes back by another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config import SourceConfig
from luthier.data.augment.guards import Facts, NearDuplicates
from luthier.data.augment.recombination import Recombination
from luthier.data.augment.rewrite import value_of
from luthier.data.augment.run import augment_source, augmented
from luthier.data.augment.synonyms import Synonyms
from luthier.data.conversation import Content, Conversation, Origin, Row, Text
from luthier.data.formats import base as formats
from luthier.data.recognise import recognised
from luthier.errors import DataError, OutputError
from tests.data.augment.conftest import placed, talk

Write = Callable[..., Path]
CITY = talk("Tell me about the city of Bonn.", "It is small.")
METROPOLIS = talk("Tell me about the metropolis of Bonn.", "It is small.")


def rules(*rows: Content, guards: Any = (), apart: Any = (), augmenters: Any = None) -> list[str]:
    found = augmented(placed(*rows), augmenters or [Synonyms()], guards, apart=placed(*apart, file="held.jsonl"))
    return [drop.rule if drop else "" for _, drop in found]


def test_nothing_that_is_there_and_nothing_that_is_held_out() -> None:
    assert rules(CITY) == [""]
    assert rules(CITY, METROPOLIS) == ["duplicate", "duplicate"]
    assert rules(CITY, CITY) == ["", "duplicate"]
    assert rules(CITY, apart=[METROPOLIS]) == ["held-out"]
    assert rules(CITY, apart=[talk("Tell me about the METROPOLIS of Bonn!", "Another answer.")]) == ["held-out"]
    assert rules(Text("the city"), apart=[Text("the metropolis")]) == ["held-out"]


def test_guards_in_their_order() -> None:
    """What one refuses the next does not see; what was read is known to them."""

    class Losing(Synonyms):
        def build(self) -> Any:
            return self

        def make(self, rows: Any) -> Any:
            from luthier.data.augment.base import Candidate

            yield from (
                Candidate(0, talk(text, "It is small."), "x")
                for text in ("Say it of the big old Rome.", "Say it of the big old Bonn.")
            )

    near, again = NearDuplicates(threshold=0.5), NearDuplicates(threshold=0.5)
    assert rules(CITY, guards=[Facts(), near], augmenters=[Losing()]) == ["facts", ""]
    assert rules(CITY, guards=[again, Facts()], augmenters=[Losing()]) == ["facts", "near-duplicate"]
    assert rules(CITY, guards=[], augmenters=[Losing()]) == ["", ""]
    assert rules(CITY, guards=[NearDuplicates(threshold=0.3)]) == ["near-duplicate"]
    asked = talk("Say it of the big old Home.", "Another.")
    assert rules(CITY, guards=[near], apart=[asked], augmenters=[Losing()]) == ["near-duplicate"] * 2


def test_facts_of_rows_that_were_put_together() -> None:
    rows = [talk(f"What is {n} and who is Mr. Q{n}?", f"It is {n}{n}, by Eve.", system="In Bonn, 7.") for n in range(6)]
    made = rules(
        *rows, guards=[Facts()], augmenters=[Recombination(modes=["dialogue"]), Recombination(modes=["questions"])]
    )
    assert made == [""] * 12


ROWS: list[tuple[str, Any]] = [
    ("messages", {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"},
                               {"role": "assistant", "content": "c", "reasoning_content": "d", "weight": 0.5}]}),
    ("messages", {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "r", "tool_call_id": "1"}, {"role": "assistant", "content": "c"}],
        "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2}),
    ("preference", {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                    "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}),
    ("labelled", {"prompt": "a", "completion": "b", "label": False}),
    ("prompt", {"prompt": "a", "system": "s", "solution": 3, "level": "x"}),
    ("text", {"text": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("format", "value"), ROWS)
def test_rows_are_written_as_they_are_read(format: str, value: Any) -> None:
    """In a layout that is recognised, with the keys that say where a row comes from."""
    content = formats.read(format, Row(Origin("rows.jsonl", 1), value))
    written = json.loads(json.dumps(value_of(content) | {"made_of": "rows.jsonl:1", "method": "synonyms"}))
    row = Row(Origin("new.jsonl", 1), written)
    assert formats.recognise([row] * 5, "new.jsonl") == format
    assert formats.read(format, row) == content


def values(*rows: Conversation) -> list[Any]:
    return [value_of(row) for row in rows]


def test_what_is_written(write_rows: Write, tmp_path: Path) -> None:
    path = write_rows(
        [*values(CITY, talk("Compute 3 in a city.", "Yes.")), {"messages": 1}, {"messages": []}, *values(CITY)]
    )
    source, folder = SourceConfig(path=str(path), format="messages"), tmp_path / "more"
    read, tally = augment_source(source, [Synonyms(share=1)], [Facts()], str(folder))
    assert (read, tally.kept, dict(tally.mended), dict(tally.dropped)) == (3, 2, {"synonyms": 2}, {"duplicate": 1})
    assert augment_source(source, [Synonyms(share=1)], [Facts()], None) == (read, tally)
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert lines[0] == value_of(METROPOLIS) | {"made_of": f"{path}:1", "method": "synonyms"}
    assert lines[1]["messages"][0]["content"] == "Calculate 3 in a metropolis."
    dropped = json.loads((folder / "dropped.jsonl").read_text())
    assert (dropped["line"], dropped["rule"], dropped["row"]["method"]) == (5, "duplicate", "synonyms")
    assert [json.loads(line)["line"] for line in (folder / "ledger.jsonl").read_text().splitlines()] == [1, 2, 5]
    report = (folder / "augmented.md").read_text()
    assert f"# {path}, augmented" in report and "2 of 3 rows kept" in report and "| made by synonyms | 2 |" in report
    again = recognised(SourceConfig(path=str(folder)), str(folder / "rows.jsonl"))
    assert again.format == "messages"
    augment_source(
        source,
        [Synonyms()],
        [],
        str(folder),
        held_out=SourceConfig(path=str(write_rows(values(METROPOLIS), "h.jsonl"))),
    )
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 1


def test_nothing_of_somebody_else_is_replaced(write_rows: Write, tmp_path: Path) -> None:
    from luthier.data.clean.repair import Repair
    from luthier.data.clean.run import clean_source

    source = SourceConfig(path=str(write_rows(values(CITY))))
    clean_source(source, [Repair()], str(tmp_path / "cleaned"))
    with pytest.raises(
        OutputError, match=r"holds report\.\w+, which `luthier data augment` did not write; name another"
    ):
        augment_source(source, [Synonyms()], [], str(tmp_path / "cleaned"))
    augment_source(source, [Synonyms()], [], str(tmp_path / "more"))
    with pytest.raises(OutputError, match=r"holds augmented.md, which `luthier data clean` did not write"):
        clean_source(source, [Repair()], str(tmp_path / "more"))
    with pytest.raises(DataError, match="nowhere"):
        augment_source(SourceConfig(path="nowhere.jsonl"), [Synonyms()], [], str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()

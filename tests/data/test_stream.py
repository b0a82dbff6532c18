"""Streams: every row once an epoch in an order of its own, and after a stop exactly the rows that would have come."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.config import DataConfig
from luthier.data.stream import Raw, Stream
from luthier.errors import ConfigError, DataError, Interrupted
from luthier.train.observers.base import Observer, Progress
from tests.conftest import chat_rows

Write = Callable[..., Path]
OPTIONS: dict[str, Any] = {
    "data__streaming": True, "data__shuffle_buffer": 6, "data__bad_rows": "drop", "data__over_length": "drop",
    "train__max_steps": 12, "train__batch_size": 3, "train__evaluate_every": "4 steps", "train__save_every": "3 steps",
    "data__held_out": 0.2,
}  # fmt: skip


def stream(*files: Path, seed: int = 0, **options: Any) -> Stream:
    sources = [str(file) for file in files]
    return Stream(DataConfig(**({"train": sources, "held_out": 0.0, "shuffle_buffer": 5} | options)), seed=seed)


def numbered(count: int, letter: str = "a") -> list[dict[str, str]]:
    return [{"text": f"{letter}{number}"} for number in range(count)]


def drawn(one: Stream, count: int) -> list[str]:
    return [one.draw().value["text"] for _ in range(count)]


@pytest.mark.parametrize("buffer", [1, 5, 1000])
def test_every_row_once_an_epoch(write_rows: Write, buffer: int) -> None:
    path = write_rows(numbered(40))
    one = stream(path, shuffle_buffer=buffer)
    epochs = [drawn(one, 40) for _ in range(3)]
    every = [f"a{number}" for number in range(40)]
    assert all(sorted(epoch) == sorted(every) for epoch in epochs) and one.epoch == 2
    if buffer == 1:
        assert epochs[0] == every
    else:
        assert epochs[0] != every and epochs[0] != epochs[1]
        assert drawn(stream(path, shuffle_buffer=buffer, seed=1), 40) != epochs[0]
        assert drawn(stream(path, shuffle_buffer=buffer), 40) == epochs[0]


def test_sources_take_turns_under_their_limits_and_weights(write_rows: Write) -> None:
    long, short = write_rows(numbered(30), "long.jsonl"), write_rows(numbered(4, "b"), "short.jsonl")
    sources = [{"path": str(long), "limit": 20}, {"path": str(short), "weight": 3}]
    one = stream(train=sources, shuffle_buffer=1)
    seen = drawn(one, 20 + 12)
    assert Counter(seen) == Counter({f"a{n}": 1 for n in range(20)} | {f"b{n}": 3 for n in range(4)})
    assert seen[:5] == ["a0", "b0", "b0", "b0", "a1"]
    half = stream(train=[{"path": str(long), "weight": 0.5}], shuffle_buffer=3)
    first = sorted(drawn(half, 10))
    assert len(set(first)) == 10


@pytest.mark.parametrize("stop", [0, 1, 7, 39, 40, 41, 55])
def test_from_any_place_on_the_same_rows_come(write_rows: Write, stop: int) -> None:
    """Files of several kinds, cleaners that drop and mend, and epochs that end, included."""
    first = write_rows([*numbered(25), {"text": "a\u200bb "}, {"text": ""}], "one.jsonl")
    second = first.with_name("two.csv")
    second.write_text("text\n" + "".join(f"c{n}\n" for n in range(15)))
    sources = [{"path": str(first), "format": "text"}, {"path": str(second), "format": "text"}]
    options = {"train": sources, "clean": [{"type": "repair"}], "held_out": 0.1}
    whole = stream(**options)
    drawn(whole, stop)
    other = stream(**options, seed=5)
    other.restore(whole.state())
    assert [whole.draw() for _ in range(60)] == [other.draw() for _ in range(60)]
    assert whole.state()["stream"].equal(other.state()["stream"])


def test_held_out_rows_are_those_of_any_run(write_rows: Write, run_config: Callable[..., Any]) -> None:
    rows = chat_rows(60)
    ready = {}
    for streaming in (False, True):
        config = run_config(rows, **OPTIONS | {"data__streaming": streaming, "data__shuffle_buffer": 100})
        ready[streaming] = luthier.Factory().prepare(config)
    held = {name: {e.content_id for e in one.data.held_out} for name, one in ready.items()}
    assert held[True] == held[False] != set()
    assert not held[True] & {e.content_id for e in ready[True].data.train}
    assert len(ready[True].data.train) == 60 - len(held[True])


def test_what_files_of_their_own_hold_out_is_passed_over(
    run_config: Callable[..., Any], write_rows: Write, tmp_path: Path
) -> None:
    rows = chat_rows(20)
    held = write_rows(rows[3:6], "held.jsonl")
    config = run_config(rows, **OPTIONS | {"data__held_out": [str(held)]})
    ready = luthier.Factory().prepare(config)
    assert len(ready.data.train) == 17 and len(ready.data.held_out) == 3
    assert [entry.reason for entry in ready.data.ledger.of("dropped")] == ["held-out"] * 3
    assert [reading.file for reading in ready.data.readings] == [config.data.train[0].path, str(held)]
    luthier.Factory().fine_tune(config)
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    learnt = {row.partition(" ")[0] for step in steps for row in step["rows"]}
    assert len(learnt) == 17 and not learnt & {example.content_id for example in ready.data.held_out}
    assert sum("a held-out row" in said for step in steps for said in step.get("dropped", ())) >= 6


def test_nothing_can_be_learnt_from(run_config: Callable[..., Any]) -> None:
    config = run_config(chat_rows(8), **OPTIONS | {"data__max_length": 2})
    with pytest.raises(DataError, match=r"no row of the stream can be learnt from; first: .*over-length"):
        luthier.Factory().prepare(config)


class Stop(Observer):
    """Asks to stop after a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, progress: Progress) -> bool:
        """Whether it is that step."""
        return progress.state.step == self.at


@pytest.mark.parametrize("at", [2, 7])
def test_a_run_goes_on_as_if_it_had_not_stopped(run_config: Callable[..., Any], tmp_path: Path, at: int) -> None:
    rows = [*chat_rows(20), {"messages": []}, {"messages": [{"role": "user", "content": "no answer"}]}]
    whole, parts = (run_config(rows, output=str(tmp_path / name), **OPTIONS) for name in ("whole", "parts"))
    luthier.Factory().fine_tune(whole)
    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(parts, observers=[Stop(at)])
    luthier.Factory().fine_tune(parts)
    for name in ("metrics.jsonl", "steps.jsonl"):
        one, other = ((tmp_path / run / name).read_text() for run in ("whole", "parts"))
        lines = [[_timeless(line) for line in text.splitlines()] for text in (one, other)]
        assert lines[0] == lines[1]
    weights = [(tmp_path / run / "adapter_model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]


def _timeless(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if "second" not in key and "memory" not in key}


def test_rows_of_a_stream_are_found(run_config: Callable[..., Any], tmp_path: Path) -> None:
    from luthier.data.lineage import sightings

    luthier.Factory().fine_tune(run_config([*chat_rows(20), {"messages": []}], **OPTIONS))
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [len(line["rows"]) for line in lines] == [3] * 12
    assert sum(len(line.get("dropped", ())) for line in lines) == 2, "the bad row comes twice in 36 draws of 17"
    identity, _, place = lines[4]["rows"][1].partition(" ")
    file, _, number = place.rpartition(":")
    for found in (
        sightings(tmp_path / "run", frozenset([identity]), None),
        sightings(tmp_path / "run", frozenset(), (file, int(number))),
    ):
        (one,) = found
        assert 5 in one.steps and one.row["line"] == int(number)
    notes = json.loads((tmp_path / "run" / "rows.json").read_text())["notes"]
    assert notes.startswith("a stream: ")


def test_what_a_stream_cannot_do_is_said(run_config: Callable[..., Any]) -> None:
    config = run_config(
        data__streaming=True, data__held_out=5, data__stratify="source", data__keep_together=["conversations"],
        data__clean=["duplicates"], objective="dpo", data__augment=["recombination"], train__max_steps=None,
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        luthier.Factory().prepare(config)
    named = [problem.path for problem in caught.value.problems]
    assert named == [
        "train.max_steps", "train.evaluate_every", "train.save_every", "data.bad_rows", "data.over_length",
        "data.held_out", "data.stratify", "data.keep_together", "data.augment", "data.clean", "objective",
    ]  # fmt: skip


def test_sources_that_end(write_rows: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no row of the stream is left .*: .*rows.jsonl:1: .*empty"):
        stream(write_rows([{"text": ""}]), train=[{"path": str(write_rows([{"text": ""}])), "format": "text"}]).draw()
    monkeypatch.setattr("luthier.data.stream.STDIN", str(write_rows(numbered(3))))
    one = stream(write_rows(numbered(3)))
    drawn(one, 3)
    with pytest.raises(DataError, match="standard input was read to its end"):
        one.draw()
    other = stream(write_rows(numbered(3)), write_rows(numbered(3), "b.jsonl"))
    with pytest.raises(DataError, match="2 sources, and the checkpoint's stream has 1"):
        other.restore(stream(write_rows(numbered(3))).state())
    assert isinstance(other.draw(), Raw)

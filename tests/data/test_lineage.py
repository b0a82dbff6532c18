"""What a run says of the steps of each row is what its steps were made of, whatever happened to the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import luthier
from luthier.data.ledger import written
from luthier.data.lineage import STEPS, ancestors, carried, fold, ranges, runs, sightings
from luthier.data.loader import Loader
from luthier.errors import DataError, Interrupted, StorageError
from luthier.factory import Factory
from luthier.train.observers.base import Progress
from tests.conftest import chat_rows
from tests.invariance.conftest import trains_in
from tests.invariance.test_resume import FailAt, StopAt

Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, run_config: Any) -> Train:
    return trains_in(tmp_path, run_config)


def ledger(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "rows.json").read_text()))


def steps_of(row: dict[str, Any]) -> list[int]:
    """`steps` of rows.json, written out."""
    return [n for s in row.get("steps", ()) for n in (range(s[0], s[1] + 1) if isinstance(s, list) else [s])]


def told(folder: Path) -> Counter[tuple[str, int]]:
    """How often each content was in each step, as rows.json says in the end."""
    rows = [*ledger(folder).get("earlier", ()), *ledger(folder)["rows"]]
    return Counter((row["content_id"], step) for row in rows for step in steps_of(row))


def expected(config: Any, steps: Iterable[int]) -> Counter[tuple[str, int]]:
    """The same from the order of the data alone."""
    ready = Factory().prepare(config)
    train = config.train
    loader = Loader(ready.data.train, batch_size=train.batch_size, seed=train.seed, layout=ready.layout)
    wanted = set(steps)
    found: Counter[tuple[str, int]] = Counter()
    for number, (chosen, _, _) in enumerate(loader.picks(), 1):
        if number > max(wanted):
            return found
        found.update((example.content_id, number) for example in chosen if number in wanted)
    return found


LONG: dict[str, Any] = {"train__max_steps": 7, "train__epochs": 3, "train__save_every": 2, "output__keep": 9}


def test_every_row_says_its_steps_over_epochs(train: Train, run_config: Any) -> None:
    folder = train("run", **LONG)
    assert told(folder) == expected(run_config(**LONG), range(1, 8))
    assert max(len(steps_of(row)) for row in ledger(folder)["rows"]) >= 2, "some rows were seen in several epochs"
    sides = {row["side"] for row in ledger(folder)["rows"] if "steps" in row}
    assert sides == {"train"}
    assert ledger(folder)["summary"]["read"] == 24


@pytest.mark.parametrize("stop", [StopAt, FailAt])
def test_a_step_that_is_done_again_is_written_once(train: Train, tmp_path: Path, stop: type) -> None:
    whole = train("whole", **LONG)
    with pytest.raises((Interrupted, StorageError)):
        train("parts", observers=[stop(5)], **LONG)
    with (tmp_path / "parts" / STEPS).open("a") as file:
        file.write('{"step": 6, "rows": [1, 2')  # the kill came while it was written
    parts = train("parts", **LONG)
    assert (parts / STEPS).read_bytes() == (whole / STEPS).read_bytes()
    assert (parts / "rows.json").read_bytes() == (whole / "rows.json").read_bytes()


def test_weights_and_rows_that_were_split(train: Train, run_config: Any, write_rows: Any) -> None:
    """A row of weight 2 is there twice an epoch; a row in several sequences once."""
    rows = [*chat_rows(11), {"messages": [{"role": "user", "content": "Go on?"},
                                          {"role": "assistant", "content": "And so on. " * 40}]}]  # fmt: skip
    source = {"path": str(write_rows(rows, "twice.jsonl")), "weight": 2}
    changes: dict[str, Any] = {
        "data__train": [source], "data__held_out": 0.0, "data__max_length": 100, "data__over_length": "split",
        "train__max_steps": 3, "train__batch_size": 8,
    }  # fmt: skip
    folder = train("run", **changes)
    assert told(folder) == expected(run_config(**changes), range(1, 4))
    assert {len(steps_of(row)) for row in ledger(folder)["rows"]} == {2}
    assert max(row["sequences"] for row in ledger(folder)["rows"]) > 1


def test_a_run_that_goes_on_with_other_data_keeps_what_it_learnt_before(train: Train, run_config: Any) -> None:
    changes: dict[str, Any] = {"train__save_every": 1, "data__held_out": 0.0, "train__max_steps": 4}
    before = run_config(**changes)
    learnt = expected(before, [1, 2])
    with pytest.raises(Interrupted):
        train("run", observers=[StopAt(2)], **changes)
    folder = Path(before.output.dir)
    config = run_config(chat_rows(40)[10:], output__dir=str(folder), **changes)
    with pytest.raises(StorageError):  # and is killed once more, after a change of its config alone
        Factory().fine_tune(config, allow_changes=True, observers=[FailAt(3)])
    config = run_config(chat_rows(40)[10:], output__dir=str(folder), **changes | {"train__learning_rate": 2e-3})
    luthier.Factory().fine_tune(config, allow_changes=True)
    found = told(folder)
    assert Counter({key: n for key, n in found.items() if key[1] <= 2}) == learnt
    later = expected(config, [3, 4])
    assert Counter({key: n for key, n in found.items() if key[1] > 2}) == later
    assert len(ledger(folder)["earlier"]) == 24 and len(ledger(folder)["rows"]) == 30


def test_answers_that_are_used_for_several_steps(online: Any) -> None:
    config = online("grpo", settings={"updates": 3}, train__max_steps=6, data__held_out=0.0)
    luthier.Factory().fine_tune(config)
    steps = [row["steps"] for row in ledger(Path(config.output.dir))["rows"] if "steps" in row]
    assert len(steps) == 8 and sorted(map(str, steps)) == ["[[1, 3]]"] * 4 + ["[[4, 6]]"] * 4


def test_a_skipped_or_overflowed_step_teaches_nothing(tmp_path: Path) -> None:
    from luthier.train.observers.lineage import Lineage
    from luthier.train.state import State

    observer = Lineage(tmp_path)
    observer.on_start(State(), 4)
    first = Progress(State(step=1), 4, 0.0, 1.0, 1e-3, 1.0, 1, 1, 0.1, rows=[4, 2])
    observer.on_step(first)
    observer.on_step(replace(first, state=State(step=2), grad_norm=float("inf")))
    assert (tmp_path / STEPS).read_text() == '{"step": 1, "rows": [4, 2]}\n'


@given(st.lists(st.integers(1, 40)).map(sorted))
def test_ranges_lose_no_step(steps: list[int]) -> None:
    assert sorted(steps_of({"steps": ranges(steps)})) == steps
    assert len(ranges(list(range(3, 9)))) == 1


# ---- looking a row up ----------------------------------------------------------------------------------------------


def made(root: Path, name: str, rows: list[dict[str, Any]], steps: list[list[int]], model: str = "tiny") -> Path:
    """A run's records without the run."""
    folder = root / name
    folder.mkdir(parents=True)
    record = {"finished": True, "data": "", "config": {"model": {"path": model}}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "rows.json").write_text("".join(written({"rows": rows})))
    lines = [json.dumps({"step": n, "rows": numbers}) + "\n" for n, numbers in enumerate(steps, 1)]
    (folder / STEPS).write_text("".join(lines))
    return folder


def entry(file: str, line: int, identity: str = "", **more: Any) -> dict[str, Any]:
    own = {"content_id": identity} if identity else {}
    return {"file": file, "line": line, "side": "train", "outcome": "kept", **own, **more}


A, B = "a" * 16, "b" * 16


def test_a_row_is_found_under_any_name_and_place(tmp_path: Path) -> None:
    rows = [entry("x.jsonl", 7, A), entry("y.jsonl", 2, A), entry("x.jsonl", 9, outcome="dropped", reason="no")]
    run = made(tmp_path, "one", rows, [[0], [1, 2], [0]])
    found = sightings(run, frozenset([A]), None)
    assert [(seen.row["file"], seen.steps, seen.moved) for seen in found] == [
        ("x.jsonl", [1, 3], False),
        ("y.jsonl", [2], False),
    ]
    (gone,) = sightings(run, frozenset([B]), ("./x.jsonl", 9))
    assert gone.row["reason"] == "no" and not gone.moved
    (moved,) = sightings(run, frozenset([B]), ("x.jsonl", 7))
    assert moved.moved
    made(tmp_path, "mended", [entry("x.jsonl", 7, A, mended="repair")], [[0]])
    (mended,) = sightings(tmp_path / "mended", frozenset([B]), ("x.jsonl", 7))
    assert not mended.moved, "what cleaning made of a row has another content id"


def test_runs_that_began_from_a_run(tmp_path: Path) -> None:
    a = made(tmp_path, "a", [entry("x", 1, A)], [[0], [], [], [0]])
    b = made(tmp_path, "b", [], [], model=str(a))
    c = made(tmp_path, "c", [], [], model=str(b / "checkpoint-2"))
    (a / "metrics.json").write_text('{"final_step": 3}')
    assert list(ancestors(c)) == [(b, 2.0), (a, 3.0)]
    assert list(ancestors(b)) == [(a, 3.0)] and list(ancestors(a)) == []
    assert runs(tmp_path) == [a, b, c]
    circle = made(tmp_path, "circle", [], [], model=str(tmp_path / "circle"))
    assert list(ancestors(circle)) == []


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run of Luthier there \(no run.json\).*--runs"):
        runs(tmp_path)


def test_folding_twice_is_folding_once_and_forgets_what_was_undone(tmp_path: Path) -> None:
    run = made(tmp_path, "one", [entry("x", 1, A), entry("x", 2, B)], [[0, 1], [1]])
    fold(run)
    once = (run / "rows.json").read_bytes()
    fold(run)
    assert (run / "rows.json").read_bytes() == once
    assert [row["steps"] for row in ledger(run)["rows"]] == [[1], [[1, 2]]]
    (run / STEPS).write_text('{"step": 1, "rows": [0]}\n')
    fold(run)
    assert [row.get("steps") for row in ledger(run)["rows"]] == [[1], None]
    assert "earlier" not in "".join(carried(run, written({"rows": [entry("x", 1, A), entry("x", 2, B)]})))


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": 5}'])
def test_a_ledger_that_cannot_be_read_denies_nothing(tmp_path: Path, text: str) -> None:
    """A row would seem never to have been seen."""
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=r"rows\.json: (cannot be read|not a ledger)"):
        sightings(tmp_path, frozenset([A]), None)


def test_rows_that_were_made_of_a_row_are_found_with_it(tmp_path: Path) -> None:
    """By what it says or where it stands; of two parents, by either; of a mended row, by what it was."""
    made = entry("x.jsonl", 7, B) | {"method": "synonyms", "made_of": f"{A} {'c' * 16}"}
    (tmp_path / "rows.json").write_text("".join(written({"rows": [made]})))
    (tmp_path / STEPS).write_text('{"step": 1, "rows": [0]}\n')
    for ids, place in (([A], None), (["c" * 16], None), ([A], ("x.jsonl", 7)), ([B], None)):
        (found,) = sightings(tmp_path, frozenset(ids), place)
        assert not found.moved and found.steps == [1]
    assert sightings(tmp_path, frozenset(["d" * 16]), ("x.jsonl", 7))[0].moved

"""Rows on disk: the same as those in memory, rendered once, and found again by the next run and after a kill."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier
from luthier.config import DataConfig
from luthier.data import processor, store
from luthier.data.conversation import Content, Conversation, Origin
from luthier.data.making import Renders
from luthier.data.processor import DataProcessor, Prepared
from luthier.data.render import Renderer, Tokens
from luthier.data.store import ReadRow, RenderedRow, Rows, Store, extreme, fingerprint, kept
from luthier.errors import LuthierError
from luthier.objectives.dpo import Dpo
from luthier.objectives.sft import Sft
from luthier.system.kept import KEPT_DAYS
from tests.conftest import chat_rows

Write = Callable[..., Path]
MADE = st.lists(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(0, 100, width=32)), min_size=1, max_size=9), max_size=4
)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Files of any size are kept, and no rows are held in memory; the folder in which they are."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(processor, "KEPT_BYTES", 0)
    monkeypatch.setattr(store, "HELD", 0)
    return tmp_path / "home" / "rows"


class Counting(Sft):
    """Supervised fine-tuning that writes down what it renders, and may stop."""

    log: str

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """As usual."""
        with Path(self.log).open("a") as file:
            file.write("x")
        if Path(self.log).stat().st_size >= int(os.environ.get("STOP", 10**9)):
            os._exit(9)
        return super().sequences(content, renderer)


def prepared(path: Path, tokenizer: Any, objective: Renders, **options: Any) -> Prepared:
    config = DataConfig(train=[str(path)], **({"held_out": 0.2} | options))  # type: ignore[list-item]
    return DataProcessor().prepare(config, Renderer(tokenizer), objective)


def told(data: Prepared) -> list[Any]:
    return [
        [(e.origin, e.content_id, e.content, [(t.ids.tolist(), t.weights.tolist()) for t in e.sequences]) for e in side]
        for side in (data.train, data.held_out)
    ]


def test_rows_on_disk_are_those_in_memory(on_disk: Path, write_rows: Write, tokenizer: Any) -> None:
    path = write_rows([*chat_rows(40), chat_rows(2)[0], {"messages": []}])
    there = prepared(path, tokenizer, Sft(), max_length=60, over_length="split", bad_rows="drop")
    assert isinstance(there.train, Rows) and len(list(on_disk.glob("*.sqlite"))) == 1
    store.HELD = 10**6
    here = prepared(path, tokenizer, Sft(), max_length=60, over_length="split", bad_rows="drop", cache=False)
    assert isinstance(here.train, list) and told(here) == told(there)
    assert list(here.ledger.entries) == list(there.ledger.entries) and here.ledger.count("split")
    assert [row.origin for row in there.train[3:5]] == [here.train[3].origin, here.train[4].origin]
    assert there.train[-1].origin == here.train[-1].origin


def test_a_run_on_rows_on_disk_is_the_same(
    run_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights of each source, dropped rows and evaluation included: every number of the run."""

    def losses(name: str) -> str:
        config = run_config(output=str(tmp_path / name), train__evaluate_every="2 steps")
        luthier.Factory().fine_tune(config)
        return "".join(line.split('"seconds')[0] for line in (tmp_path / name / "metrics.jsonl").open())

    held = losses("held")
    monkeypatch.setattr(store, "HELD", 0)
    assert losses("on-disk") == held


def test_nothing_is_rendered_twice(on_disk: Path, write_rows: Write, tokenizer: Any, tmp_path: Path) -> None:
    """Not in the next run, nor where a row is said twice, nor what stayed of a file that has grown."""
    log = tmp_path / "log"
    counting, rows = Counting(log=str(log)), chat_rows(20)
    first = prepared(write_rows([*rows, *rows[:3]]), tokenizer, counting)
    assert log.stat().st_size == 20
    assert told(prepared(write_rows([*rows, *rows[:3]]), tokenizer, counting)) == told(first)
    assert log.stat().st_size == 20
    prepared(write_rows(chat_rows(24)), tokenizer, counting)
    assert log.stat().st_size == 24
    prepared(write_rows(chat_rows(24)), tokenizer, counting, max_length=999)
    assert log.stat().st_size == 48
    prepared(write_rows(chat_rows(24)), tokenizer, counting, cache=False)
    assert log.stat().st_size == 72


def test_a_kill_loses_a_batch_at_most(on_disk: Path, write_rows: Write, tiny: Path, tmp_path: Path) -> None:
    path, log = write_rows(chat_rows(600)), tmp_path / "log"
    program = (
        "from transformers import AutoTokenizer; from pathlib import Path; from luthier.data import processor;"
        "from tests.data.test_store import Counting, prepared; processor.KEPT_BYTES = 0;"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tiny)!r});"
        f"prepared(Path({str(path)!r}), tokenizer, Counting(log={str(log)!r}))"
    )
    for stop, code, made in (("300", 9, 300), ("1000000", 0, 300 + 600 - 256)):
        own = {**os.environ, "STOP": stop}
        done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], env=own, check=False)
        assert done.returncode == code and log.stat().st_size == made


def test_other_processes_render_the_same(write_rows: Write, tokenizer: Any) -> None:
    path = write_rows([*chat_rows(300), {"messages": []}])
    here, there = (prepared(path, tokenizer, Sft(), bad_rows="drop", workers=n) for n in (0, 2))
    assert told(here) == told(there) and list(here.ledger.entries) == list(there.ledger.entries)


# ---- what is kept under which name -----------------------------------------------------------------------------------


def test_whatever_changes_rendering_changes_the_name(tokenizer: Any) -> None:
    from copy import deepcopy

    def name(objective: Any = Sft(), settings: Any = (1024, "error"), **own: Any) -> str | None:
        other = deepcopy(tokenizer)
        for key, value in own.pop("tokenizer", {}).items():
            setattr(other, key, value)
        return fingerprint(Renderer(other, **own), objective, settings)

    names = [
        name(), name(Dpo()), name(settings=(512, "error")), name(settings=(1024, "drop")), name(options={"a": 1}),
        name(stop_ids=[5]),
        name(tokenizer={"init_kwargs": {"split_special_tokens": True}}),
        name(tokenizer={"chat_template": "{{ messages }}"}), name(tokenizer={"bos_token": "<b>"}),
    ]  # fmt: skip
    assert None not in names and len(set(names)) == len(names) and name() == names[0]
    assert name(tokenizer={"chat_template": "{{ strftime_now('%d') }}"}) is None
    assert name(type("Own", (), {"sequences": None})()) is None


def test_code_of_others_counts(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plug-in imports from beside it, too; code that stands in no file cannot be told."""
    (tmp_path / "theirs.py").write_text(
        "from helper import said\nfrom luthier.objectives.sft import Sft\nclass Own(Sft):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for text in ("said = 1", "said = 2"):
        (tmp_path / "helper.py").write_text(text)
        own = importlib.import_module("theirs").Own()
        found.append(fingerprint(Renderer(tokenizer), own, ()))
    assert None not in found and found[0] != found[1]
    monkeypatch.setitem(sys.modules, "nowhere", ModuleType("nowhere"))
    typed = type("Typed", (Sft,), {"__module__": "nowhere", "__doc__": "Typed in."})
    assert fingerprint(Renderer(tokenizer), typed(), ()) is None


def test_words_of_ours_count(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "data").mkdir()
    found = []
    for text in ("user: human", "user: person"):
        (tmp_path / "data" / "words.yaml").write_text(text)
        found.append(fingerprint(Renderer(tokenizer), Sft(), ()))
    assert None not in found and found[0] != found[1]


def test_old_files_go(on_disk: Path) -> None:
    kept("old").rows.close()
    kept("new").rows.close()
    for file in on_disk.glob("old*"):
        os.utime(file, (0, time.time() - KEPT_DAYS * 86400 - 60))
    kept("third")
    assert {file.stem for file in on_disk.glob("*.sqlite")} == {"new", "third"}
    assert on_disk.stat().st_mode & 0o777 == 0o700


def test_what_is_damaged_or_cannot_be_kept_only_costs_time(
    on_disk: Path, write_rows: Write, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(chat_rows(20))
    first = prepared(path, tokenizer, Sft())
    (file,) = on_disk.glob("*.sqlite")
    for end in ("-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)
    file.write_bytes(b"SQLite format 3\0" + b"damaged" * 999)
    assert told(prepared(path, tokenizer, Sft())) == told(first)
    monkeypatch.setattr("luthier.system.kept.home", lambda: path)  # a file, in which there can be no folder
    with pytest.warns(UserWarning, match="nothing can be kept for later runs"):
        assert told(prepared(path, tokenizer, Sft())) == told(first)


def test_arrays_of_other_types_are_the_same_numbers() -> None:
    here = Store()
    row = here.add("text", {"text": "said"})
    here.put(row, RenderedRow((Tokens(np.arange(5, 9), np.array([0.0, 1, 1, 1])),), "kept"))  # type: ignore[arg-type]
    found = here.rendered(row)
    assert found is not None and found.sequences[0].ids.tolist() == [5, 6, 7, 8]
    assert found.sequences[0].weights.tolist() == [0, 1, 1, 1]


# ---- the store -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(MADE, st.text(), st.recursive(st.none() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=5))
def test_what_is_put_in_comes_out(made: list[list[tuple[int, float]]], detail: str, value: Any) -> None:
    here = Store()
    row = here.add("text", {"text": "said", "other": value})
    assert here.add("text", {"text": "said", "other": value}) == row != here.add("text", {"text": "said"})
    assert here.rendered(row) is None
    sequences = tuple(
        Tokens(np.asarray([i for i, _ in one], np.int32), np.asarray([w for _, w in one], np.float32)) for one in made
    )
    here.put(row, RenderedRow(sequences, "kept", "why", detail))
    found = here.rendered(row)
    assert found is not None and found[1:] == ("kept", "why", detail) and len(found.sequences) == len(made)
    for one, other in zip(found.sequences, sequences, strict=True):
        assert np.array_equal(one.ids, other.ids) and np.array_equal(one.weights, other.weights)


def test_a_failure_loses_nothing_that_was_written(on_disk: Path) -> None:
    first = kept("one")
    with pytest.raises(LuthierError), first.writing():
        first.add("text", {"text": "said"})
        raise LuthierError("stop")
    first.rows.close()
    content = kept("one").content(1)
    assert not isinstance(content, Conversation) and content == first_text("said")


def first_text(text: str) -> Content:
    from luthier.data.conversation import Text

    return Text(text)


def test_the_longest_and_the_shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "EXTREME", 2)
    here = Store()
    rows = Rows(store.ReadRows(here))
    rows.read.source("file", 1.0)
    for length in (3, 9, 1, 7, 1):
        number = here.add("text", {"text": "a" * length})
        one = RenderedRow((Tokens.unsupervised([0] * length),), "kept")
        here.put(number, one)
        rows.read.add(number, length, f"{length:016x}")
        rows.add(ReadRow(len(rows), number, f"{length:016x}", Origin("file", length), 1.0, "", "", ""), one, 0, times=1)
    assert [row.tokens for row in extreme(rows, longest=True)] == [9, 7]
    assert [row.tokens for row in extreme(rows, longest=False)] == [1, 1]
    assert list(store.longest_of(rows)) == list(store.tokens_of(list(rows))) == [3, 9, 1, 7, 1]

"""What a run takes: which steps say it, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.data.loader import Loader
from luthier.data.pack import Example, Layout
from luthier.data.processor import DataProcessor
from luthier.errors import OutOfMemory
from luthier.factory import Factory
from luthier.models.load import ModelLoader
from luthier.system.hardware import MemoryLimit
from luthier.train import fit as room
from luthier.train.fit import MICRO_BATCHES, SMALL, choose
from luthier.units import ByteSize
from tests.conftest import chat_rows

Make = Callable[..., RunConfig]
PLENTY = ByteSize.parse("1 TB").bytes


def examples(config: RunConfig) -> list[Example]:
    objective: Any = config.objective
    return DataProcessor().prepare(config.data, ModelLoader().renderer(config.model), objective).train


@pytest.mark.parametrize(
    "layout",
    [
        Layout(packing=True, tokens=150),
        Layout(packing=False, tokens=150),
        Layout(packing=True, tokens=2**31, rows=2),
        Layout(packing=False, tokens=2**31, rows=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_size", [1, 5, 16, 64])
def test_the_chosen_steps_are_the_largest_and_usual_ones(run_config: Make, layout: Layout, batch_size: int) -> None:
    rows = examples(run_config(chat_rows(40)))
    loader = Loader(rows, batch_size=batch_size, seed=3, layout=layout)
    of_the_run = [step for _, step in zip(range(loader.steps_per_epoch), loader.steps(), strict=False)]
    sizes = [[batch.ids.numel() for batch in step.micro_batches] for step in of_the_run]
    chosen = choose(loader, steps=1000)
    subset = Loader(chosen.rows, batch_size=batch_size, seed=3, layout=layout)

    def made(places: list[int]) -> list[int]:
        return [batch.ids.numel() for batch in subset.step([chosen.rows[place] for place in places]).micro_batches]

    largest = made(chosen.largest)
    assert max(largest) == chosen.largest_tokens >= max(map(max, sizes))
    assert len(largest) <= MICRO_BATCHES
    assert chosen.tokens_per_step == pytest.approx(sum(map(sum, sizes)) / len(sizes))
    assert sum(made(chosen.small)) == chosen.small_tokens
    assert chosen.small_tokens <= SMALL * chosen.largest_tokens or len(chosen.small) == 1
    assert len(made(chosen.timed[0])) == 1 and all(1 <= len(made(places)) <= MICRO_BATCHES for places in chosen.timed)
    assert all(any(row is own for own in rows) for row in chosen.rows)


def test_the_longest_row_counts_where_it_comes_late(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = examples(run_config(chat_rows(40)))
    layout = Layout(packing=True, tokens=1)
    longest = max(layout.size(row) for row in rows)
    monkeypatch.setattr(room, "SEEN_STEPS", 1)
    assert choose(Loader(rows, batch_size=2, seed=0, layout=layout), steps=9).largest_tokens == longest


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_parts_of_memory(run_config: Make, adapter: str) -> None:
    config = run_config(adapter=adapter, train__max_steps=None, train__epochs=3)
    fit = Factory().check(config, most_bytes=PLENTY).fit
    assert fit is not None and fit.measured and fit.seconds_per_step is not None and fit.seconds_per_step > 0
    assert fit.steps == 3 * 3  # 18 rows, 8 a step
    parts = dict(fit.parts())
    model: Any = ModelLoader().load(config.model)
    base = sum(p.numel() * p.element_size() for p in model.parameters())
    if adapter == "full":
        assert parts["gradients"] == base and parts["optimizer"] == pytest.approx(2 * base, rel=0.01)
    else:
        assert 0 < parts["gradients"] < base / 2 and parts["weights"] >= base + parts["gradients"]
    assert parts["logits"] == min(fit.largest_tokens, 256) * model.config.vocab_size * 4
    assert parts["process"] > 100e6 and fit.peak >= parts["process"] + base


def test_holes_in_memory_are_counted(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "HOLES", 0)
    fit = Factory().check(run_config(), most_bytes=PLENTY).fit
    assert fit is not None and fit.activations == 0


def test_nothing_is_measured_where_nobody_asks(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "run_step", None)
    assert Factory().check(run_config()).fit is None


def test_memory_that_ends_before_the_largest_step(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the small step took is scaled by tokens; nobody says that it was measured."""
    said = list[room.Chosen]()
    pick = room.choose

    def choose(loader: Any, *, steps: int) -> Any:
        said.append(pick(loader, steps=steps))
        return said[0]

    monkeypatch.setattr("luthier.assembly.choose", choose)
    real, made, holds = room.run_step, list[int](), iter([500_000_000, 600_000_000])  # type: ignore[attr-defined]

    def run_step(job: Any, state: Any, step: Any) -> Any:
        made.append(len(step.examples))
        if len(made) == 2:
            raise MemoryError("no more")
        return real(job, state, step)

    monkeypatch.setattr(room, "run_step", run_step)
    monkeypatch.setattr(room, "peak_memory_bytes", lambda: next(holds))
    monkeypatch.setattr("luthier.assembly.held_memory_bytes", lambda: 400_000_000)
    fit = Factory().check(run_config(chat_rows(60), train__batch_size=32), most_bytes=PLENTY).fit
    assert fit is not None and not fit.measured and fit.seconds_per_step is None and fit.loading == 500_000_000
    chosen = said[0]
    small_logits = min(chosen.small_tokens, 256) * fit.logits // min(chosen.largest_tokens, 256)
    small = 600_000_000 - fit.process - fit.weights - fit.gradients - fit.optimizer - small_logits
    assert fit.activations == pytest.approx(small * chosen.largest_tokens / chosen.small_tokens, rel=1e-6)


def test_not_even_a_small_step_fits(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_step(job: Any, state: Any, step: Any) -> Any:
        raise MemoryError("no more")

    monkeypatch.setattr(room, "run_step", run_step)
    with pytest.raises(
        OutOfMemory, match=r"not even the smallest step fits into memory \(weights 0\.00 GB, .*\): no more"
    ):
        Factory().check(run_config(), most_bytes=PLENTY)


def test_a_model_that_does_not_fit(run_config: Make) -> None:
    """The limit is below what the process holds already, so the first look at it ends the loading."""
    with pytest.raises(OutOfMemory, match=r"GB are held, more than 0\.10 GB"):
        Factory().check(run_config(), most_bytes=100_000_000)


def test_other_faults_are_not_taken_for_memory(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_step(job: Any, state: Any, step: Any) -> Any:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(room, "run_step", run_step)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Factory().check(run_config(), most_bytes=PLENTY)


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_answers_are_drawn_for_online_objectives(online: Make, kind: str) -> None:
    config = online(kind)
    fit = Factory().check(config, most_bytes=PLENTY).fit
    assert fit is not None and fit.measured and fit.seconds_per_step and fit.steps == 20
    prompts = [row.tokens for row in Factory().prepare(config).data.train]
    assert fit.largest_tokens > 4 * max(prompts)  # six answers to each of four


def test_time_is_what_further_micro_batches_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 1 s and 2 s for each 100 tokens, seen at 100 and 300 tokens, has 1000 tokens in the mean."""
    took = {1: (100, 3.0), 2: (300, 7.0), 3: (300, 7.0)}
    monkeypatch.setattr(room, "_make", lambda job, places: took[places[0]])
    chosen = room.Chosen([], [], [], [[1], [2], [3]], 1, 1, 1000.0)
    assert room._seconds(None, chosen) == pytest.approx(21.0)  # type: ignore[arg-type]
    whole = room.Chosen([], [], [], [[2], [2], [3]], 1, 1, 300.0)
    assert room._seconds(None, whole) == pytest.approx(7.0)  # type: ignore[arg-type]
    took[1] = (250, 0.5)  # a noisy clock
    assert room._seconds(None, replace(chosen, tokens_per_step=30.0)) == pytest.approx(0.7)  # type: ignore[arg-type]


def test_a_schedule_of_the_whole_run(run_config: Make) -> None:
    """What depends on the run's length is not asked about the few rows that are looked at."""
    config = run_config(
        chat_rows(600), adapter="adalora", train__max_steps=None, train__epochs=1, train__batch_size=100
    )
    found = Factory().check(config)
    assert [f for f in found.report.findings if f.level == "error"] == []


def test_a_limit_is_not_taken_for_a_row_that_is_too_long(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof before the first step forgives memory; a limit that strikes there ends the check."""

    def strike(*_: Any) -> Any:
        raise MemoryLimit("9 GB are held")

    monkeypatch.setattr("luthier.train.proof._reached", strike)
    with pytest.raises(OutOfMemory, match="the model does not fit into memory: 9 GB are held"):
        Factory().check(run_config(), most_bytes=PLENTY)

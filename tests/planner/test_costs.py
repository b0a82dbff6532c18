"""Arithmetic of layouts, against numbers that are worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from luthier.distributed.mesh import Axes
from luthier.planner.costs import DEVICES, Device, Work, estimate
from luthier.planner.shape import Shape

Make = Callable[..., Shape]
ONE = Device(flops=1e12, memory=1e9, near=1e9, far=1e8, together=4, efficiency=0.5, taken=7.0)
WORK = Work(rows=8, length=128)


def test_what_is_trained_is_held_four_times(shape: Make) -> None:
    found = shape()
    whole = found.whole.bytes
    memory = estimate(found, Axes(), WORK, ONE).memory
    assert memory[:3] == (whole, whole, 2 * whole) and memory.gathered == 0 and memory.other == 7
    lora = shape(adapter="lora")
    memory = estimate(lora, Axes(), WORK, ONE).memory
    assert memory[:3] == (lora.whole.bytes, 4 * lora.whole.trained, 8 * lora.whole.trained)


def test_pieces_are_a_share_of_all_but_what_is_gathered(shape: Make) -> None:
    found = shape()
    one, four = (estimate(found, axes, WORK, ONE).memory for axes in (Axes(data=4), Axes(shard=4)))
    assert [pytest.approx(4 * part, rel=1e-4) for part in four[:3]] == list(one[:3])
    assert four.gathered == 2 * found.layer().bytes + found.ends.bytes and one.gathered == 4 * found.whole.trained
    assert estimate(found, Axes(data=8), WORK, ONE).memory.gathered == 0  # of one micro-batch each
    assert four.activations == one.activations  # of one row each


def test_stages_hold_more_micro_batches_the_earlier_they_are(shape: Make) -> None:
    found = shape()
    held = found.held(128, 1)
    three = estimate(found, Axes(pipeline=3), WORK, ONE)
    assert three.memory.activations == max((2 * 3 + 1) * held.layer, 2 * held.layer + held.once)
    assert three.memory.weights == 2 * found.layer().bytes + found.ends.bytes // 2
    assert three.bubble == pytest.approx(2 / (8 + 2)) and three.micro_batches == 8


@pytest.mark.parametrize("size", [2, 4])
def test_what_is_sent(shape: Make, size: int) -> None:
    """Of n processes each sends B (n - 1) / n for an all-gather, and twice that for an all-reduce."""
    found, share = shape(), (size - 1) / size
    gradients, layers = 4 * found.whole.trained, 6
    hidden = 128 * 64 * 4  # one row

    def sent(**axes: int) -> dict[str, float]:
        return dict(estimate(found, Axes(**axes), WORK, ONE).sent)

    assert sent(data=size) == {"data": pytest.approx(2 * share * gradients)}
    each = 2 * layers * found.layer().bytes + found.ends.bytes + gradients
    assert sent(shard=size) == {"shard": pytest.approx(share * each * 8 / size)}
    assert sent(tensor=size) == {"tensor": pytest.approx(8 * layers * 2 * 2 * 2 * share * hidden)}
    exchanged = 8 * layers * 2 * (2 + 2 * 4 / 8) * share * hidden / size
    assert sent(sequence=size) == {"sequence": pytest.approx(exchanged + 2 * share * gradients)}
    assert sent(pipeline=size) == {"pipeline": pytest.approx(8 * 2 * hidden)}


def test_time_is_work_and_waiting(shape: Make) -> None:
    """Two operations a weight and token forward, four backward; recomputed, two more. Lora's own backward is little."""
    found, tokens = shape(), 8 * 128
    pairs = 2 * 6 * 64 * 128 / 2
    weights = 6 * found.layer().numbers + found.ends.numbers / 2
    assert estimate(found, Axes(), WORK, ONE).compute == pytest.approx(tokens * 6 * (weights + pairs) / 0.5e12)
    again = shape(train={"gradient_checkpointing": True})
    assert estimate(again, Axes(), WORK, ONE).compute == pytest.approx(tokens * 8 * (weights + pairs) / 0.5e12)
    lora = estimate(shape(adapter={"type": "lora", "rank": 1}), Axes(), WORK, ONE).compute
    assert 4 / 6 < lora / estimate(found, Axes(), WORK, ONE).compute < 0.75
    assert estimate(found, Axes(data=4), WORK, ONE).compute == pytest.approx(
        tokens / 4 * 6 * (weights + pairs) / 0.5e12
    )


def test_other_machines_are_farther_away(shape: Make) -> None:
    near, far = (
        estimate(shape(), Axes(tensor=4), WORK, device)
        for device in (ONE, ONE.__class__(1e12, 1e9, 1e9, 1e8, 2, 0.5, 7))
    )
    assert far.waiting == pytest.approx(10 * near.waiting)


def test_what_is_sent_beside_computing_costs_nothing(shape: Make) -> None:
    quick = ONE.__class__(1e9, 1e9, 1e12, 1e12, 4, 0.5, 7)
    assert estimate(shape(), Axes(data=4), WORK, quick).waiting == 0
    assert estimate(shape(), Axes(data=4), WORK, ONE).waiting > 0


def test_the_table_is_complete() -> None:
    fields = {"bf16", "fp32", "memory", "near", "far", "together", "efficiency", "taken"}
    assert all(row.keys() == fields and min(row.values()) > 0 for row in DEVICES.values())

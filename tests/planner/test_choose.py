"""Which layouts there are, which fit, and what is written for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import pytest

from luthier.distributed.mesh import Axes
from luthier.errors import UserError
from luthier.planner.choose import ROOM, device, layouts, plan, written
from luthier.planner.costs import Work
from luthier.planner.shape import Shape
from luthier.plugins import load

Make = Callable[..., Shape]


@pytest.mark.parametrize("devices", [1, 2, 6, 8])
def test_layouts_use_every_device_once(devices: int) -> None:
    found = list(layouts(devices))
    assert len(set(found)) == len(found)
    for axes in found:
        sizes = (axes.pipeline, axes.data, axes.shard, axes.sequence, axes.tensor)
        assert prod(sizes) == devices and axes.over(devices) == axes


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_what_is_written_makes_that_layout(devices: int, shape: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of the config opens into a mesh of the same axes."""
    one = replace(device("h100", "fp32"), memory=1e12)
    found = plan(shape(), devices, Work(rows=8, length=64), one)
    assert found.fitting and not found.too_large
    for made in found.fitting:
        settings = load("strategy", str(made.kind)).model_validate(written(made.axes, made.kind))
        if made.kind != "single":
            monkeypatch.setattr(type(settings), "join", lambda self, axes: _raise(axes.over(devices)))
            with pytest.raises(Joined) as joined:
                settings.open()
            assert joined.value.args == (made.axes,)


class Joined(Exception):
    """Into a mesh of these axes."""


def _raise(axes: Axes) -> None:
    raise Joined(axes)


def test_the_quickest_that_fits_is_first_and_the_smallest_that_does_not(shape: Make) -> None:
    found = plan(shape(), 8, Work(rows=8, length=64), device("h100", "fp32"))
    order = [(float(f"{made.seconds:.3g}"), sum(made.sent.values())) for made in found.fitting]
    assert order == sorted(order)
    most = sorted(made.bytes for made in found.fitting)[3]
    less = plan(shape(), 8, Work(rows=8, length=64), device("h100", "fp32", memory=most / ROOM))
    assert all(made.bytes <= most for made in less.fitting) and all(made.bytes > most for made in less.too_large)
    assert len(less.fitting) + len(less.too_large) == len(found.fitting)
    assert [made.bytes for made in less.too_large] == sorted(made.bytes for made in less.too_large)


def test_what_cannot_be_is_said(shape: Make) -> None:
    found = plan(shape(sizes={"model_type": "opt", "num_key_value_heads": 3}), 8, Work(8, 64), device("h100", "fp32"))
    assert {reason.split(":")[0] for reason in found.impossible} == {"tensor", "sequence", "pipeline"}
    uneven = plan(shape(), 8, Work(rows=6, length=64), device("h100", "fp32"))
    assert any("6 rows is not shared out evenly" in reason for reason in uneven.impossible)
    assert any("fewer layers" in reason for reason in uneven.impossible)


def test_devices_by_name() -> None:
    with pytest.raises(UserError, match="no device 'h10'; did you mean 'h100'"):
        device("h10", "bf16")
    assert device("h100", "bf16", memory=4e9, together=2).memory == 4e9
    assert device("h100", "fp32").flops < device("h100", "bf16").flops

"""How far apart weights are, and which rows are not in both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from luthier.drive.differ import changed_rows, named, weights


def test_tensor_by_tensor(tmp_path: Path) -> None:
    one = {"same": torch.ones(2, 3), "far": torch.tensor([3.0, 4.0]), "shape": torch.ones(2), "gone": torch.ones(1)}
    other = one | {"far": torch.tensor([3.0, 9.0]), "shape": torch.ones(3), "new": torch.ones(1).bfloat16()}
    other.pop("gone")
    for name, tensors in (("a", one), ("b", other)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    found = {weight.name: weight for weight in weights(tmp_path / "a", tmp_path / "b")}
    assert found["same"].distance == 0 and found["same"].before == found["same"].after
    assert found["far"].distance == pytest.approx(1.0) and found["far"].before != found["far"].after
    assert {name for name, one in found.items() if one.distance == float("inf")} == {"shape", "gone", "new"}
    assert (found["gone"].after, found["new"].before) == ("none", "none")


def test_equal_numbers_in_another_type_are_no_equal_weights(tmp_path: Path) -> None:
    for name, kind in (("a", torch.float32), ("b", torch.bfloat16)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(2, dtype=kind)}, tmp_path / name / "model.safetensors")
    (found,) = weights(tmp_path / "a", tmp_path / "b")
    assert found.before != found.after and found.distance == 0.0


def test_rows() -> None:
    def ledger(*rows: tuple[int, str]) -> dict[str, list[dict[str, object]]]:
        return {"rows": [{"file": "a", "line": line, "content_id": identity} for line, identity in rows]}

    before = ledger((1, "x"), (2, "y"), (2, "made of y"), (3, "z"))
    assert changed_rows(before, before) == [] == changed_rows({}, {})
    after = ledger((1, "x"), (2, "y"), (2, "made of y"), (4, "z"))
    assert changed_rows(before, after) == ["a:3 is gone", "a:4 is new"]
    assert changed_rows(before, ledger((1, "w"), (2, "y"), (2, "made of w"), (3, "z"))) == [
        "a:1 says something else", "a:2 says something else",
    ]  # fmt: skip
    assert named(str(number) for number in range(7)) == "0, 1, 2, 3, 4, and 2 more"

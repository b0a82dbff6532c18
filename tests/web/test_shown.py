"""What commands have written, as pieces of a page that do nothing of their own."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luthier.web import shown
from luthier.web.texts import Speaker


def test_colours_stay_and_text_is_only_text() -> None:
    page = shown.page_of("\x1b[1;32mtrained\x1b[0m <script>alert(1)</script>\n50 %\r100 %\n")
    assert "<script" not in page and "&lt;script&gt;" in page and "100 %" in page and "50 %" not in page
    assert re.search(r'<span style="[^"]*color: #[0-9a-f]+[^"]*">trained</span>', page)


@given(st.text())
def test_no_output_becomes_markup(output: str) -> None:
    tags = re.findall(r"<[^>]*>", shown.page_of(output))
    assert all(re.fullmatch(r'</?(span|pre)( (style|class|role|tabindex)="[^"<>]*")*>', tag) for tag in tags), tags


def test_long_outputs_are_cut() -> None:
    page = shown.page_of("\n".join(f"line {number}." for number in range(1000)))
    assert "line 999." in page and "line 599." not in page


def test_a_spike_is_not_lost() -> None:
    points = np.column_stack([np.arange(100_000.0), np.ones(100_000)])
    points[54_321, 1] = 9.0
    few = shown.thinned(points)
    assert len(few) <= shown.POINTS and [54_321.0, 9.0] in few.tolist() and (np.diff(few[:, 0]) >= 0).all()
    assert shown.thinned(points[:10]) is not few and (shown.thinned(points[:10]) == points[:10]).all()


def test_a_picture_says_what_it_shows() -> None:
    picture = shown.curve("Loss <of> a run", {"loss": ([1, 2, 3], [2.0, 1.0, math.nan]), "none": ([], [])})
    assert 'aria-label="Loss &lt;of&gt; a run"' in picture and picture.count("<polyline") == 1
    assert "nan" not in picture and ">2<" in picture and shown.curve("x", {}) == ""


def test_how_far_a_run_is() -> None:
    """The total is that of the config; the last steps say how long it lasts."""
    rows = [{"step": step, "epoch": step / 10, "seconds": 2.0, "tokens": 3000} for step in range(21, 81)]
    found = shown.pace(rows[-50:], 20.0, None)
    assert found == {"step": 80, "total": 200, "speed": "1,500", "left": timedelta(minutes=4)}
    assert (shown.pace(rows[-50:], 20.0, 100) or {})["total"] == 100
    assert (shown.pace([{**rows[-1], "epoch": 0.0}], 1.0, 100) or {})["total"] == 100
    assert shown.pace([], 1.0, 5) is None
    assert 'value="80" max="200" aria-label="&lt;b&gt;"' in shown.bar(80, 200, "<b>")


def test_curves_of_what_there_is() -> None:
    columns = {"step": ([1, 2], [1, 2]), "loss": ([1, 2], [2.0, 1.0]), "held_out_loss": ([2], [1.5])}
    page = shown.curves(columns, {"Loss": ("loss", "held_out_loss"), "Rate": ("learning_rate",)})
    assert page.count("<figure>") == 1 and page.count("<polyline") == 2


def test_what_an_output_names_is_shown(tmp_path: Path) -> None:
    """Pictures and reports of the folder, once each; nothing of elsewhere, and no markup of theirs."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    (home / "data" / "a.svg").write_text("<svg onload='alert(1)'/>", encoding="utf-8")
    (home / "report.md").write_text("# Cleaned\n\n<script>alert(1)</script> **3** rows\n", encoding="utf-8")
    (tmp_path / "away.png").write_bytes(b"x")
    (home / "link.png").symlink_to(tmp_path / "away.png")
    said = (
        f"drawn: \x1b[1mdata/a.svg\x1b[0m, data/a.svg; ../away.png {tmp_path}/away.png link.png none.png report.md says"
    )
    page = shown.written(home, said)
    assert page.count("<img") == 1 and "data:image/svg+xml;base64," in page and "onload" not in page
    assert "Cleaned" in page and "<script" not in page and "**3**" not in page


@given(st.text() | st.text(alphabet="<&;amplt/ "))
def test_what_is_shown_literally_is_meant(text: str) -> None:
    shows = shown.literally(text)
    assert "<" not in shows and shown.meant(shows) == text


def test_answers_as_they_improve() -> None:
    """The first and the last ones, and what the row says; all of it text."""
    rows = [
        {"step": step, "question": "<b>?", "reference": "right", "answer": f"<i>{step}"} for step in range(0, 100, 10)
    ]
    page = shown.answers(rows, Speaker("en"))
    assert page.count("<figure>") == 1 and "&lt;b&gt;?" in page and "<i>" not in page and "right" in page
    assert [int(step) for step in re.findall(r"Step (\d+)", page)] == [0, 50, 60, 70, 80, 90]

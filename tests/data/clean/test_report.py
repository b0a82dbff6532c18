"""The report as a page: rows as they are, whatever they hold; places without the folder that all of them share."""

from __future__ import annotations

from luthier.data.clean.ledger import Tally
from luthier.data.clean.report import histogram, page


def tally() -> Tally:
    found = Tally(read=14, kept=2)
    found.dropped.update({"echo": 12, "re<petition": 2})
    found.thresholds.update({"echo": 1.0, "re<petition": 0.3})
    found.scores.update({"echo": [1.0] * 12, "re<petition": [0.32, 0.4]})
    row = '{"prompt": "<b>/data/x/</b>"}'
    found.examples.update(
        {"echo": [("/data/x/a.jsonl:7", "says what /data/x/a.jsonl:3 says", row)], "re<petition": [("a:1", "x", "{}")]}
    )
    return found


def test_places_are_short_and_rows_are_text() -> None:
    told = page(tally(), source="/data/x/a.jsonl", cleaners=["quality"])
    assert "<h1>a.jsonl, cleaned</h1>" in told
    assert "<b>a.jsonl:7</b> says what a.jsonl:3 says" in told
    assert "<pre>{&quot;prompt&quot;: &quot;&lt;b&gt;/data/x/&lt;/b&gt;&quot;}</pre>" in told, "a row is never changed"
    assert "<h2 id='echo'>echo <small>first 1 of 12 rows</small></h2>" in told and "href='#echo'" in told
    assert "re<petition" not in told


def test_scores_say_where_the_line_is() -> None:
    assert "the line is the threshold, 0.3" in histogram([0.32, 0.4], 0.3)
    assert histogram([1.0, 1.0], 1.0) == ""

"""The board in a real browser: what a visitor does, and what becomes of it when page, board or job are lost."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from tests.conftest import build_model, build_tokenizer
from tests.web.browser import (
    ROWS,
    SLOW,
    WAIT,
    Running,
    board,
    browser,
    command,
    config,
    drawn,
    nothing_goes_on,
    page,
    picture,
    playwright,
    says,
    tab,
    until,
    visit,
)

pytestmark = SLOW
__all__ = ["board", "browser", "nothing_goes_on", "page"]


def test_from_a_file_to_a_tuned_model(page: Any, board: Running) -> None:
    """Dropped, looked at, asked whether it fits, trained; the run shows its curve."""
    (board.folder / "data" / "rows.csv").unlink()
    tab(page, "Data")
    page.set_input_files("#drop input[type=file]", str(board.folder / "rows.csv"))
    says(page, "#dropped", "data/rows.csv")
    config(page, board, "first", 4)
    page.locator("#check").click()
    says(page, "#train-output", "ok: ")
    page.locator("#start").click()
    says(page, "#train-output", "finished")
    picture(page, "train")
    assert (board.folder / "runs" / "first" / "adapter_model.safetensors").exists()
    assert "data/rows.csv" in (board.folder / "configs" / "first.yaml").read_text(encoding="utf-8")
    tab(page, "Runs")
    page.wait_for_selector("#run-output svg.curve polyline", timeout=WAIT)
    picture(page, "runs")
    page.locator("#resume").click()  # done again, in a folder of its own
    says(page, "#run-output", "train-first-2: finished")
    again = board.folder / "runs" / "first-2" / "adapter_model.safetensors"
    assert again.read_bytes() == (board.folder / "runs" / "first" / "adapter_model.safetensors").read_bytes()
    visit(page, board)
    tab(page, "Runs")
    for run in ("runs/first", "runs/first-2"):
        page.locator("#several").get_by_text(run, exact=True).click()
    page.wait_for_selector("#compared polyline.line-1", timeout=WAIT)
    command(page, "evaluate", "evaluate", model="runs/first")
    says(page, "#evaluate-output", "loss")
    tab(page, "Train")
    says(page, "#yaml", "output: runs/first")  # what was written there is there after the page was loaded anew


def test_five_clicks(page: Any, board: Running) -> None:
    """A file is dropped; then four buttons, each lit when the one before it has done its work, end in a talk."""
    rows = board.folder / "five.csv"
    rows.write_text(ROWS, encoding="utf-8")
    page.wait_for_function("document.querySelector('#first-model input').value != ''", timeout=WAIT)
    page.locator("#first-model input").fill("tiny")
    page.keyboard.press("Enter")
    assert page.locator("#first-check").is_disabled()
    page.set_input_files("#first-drop input[type=file]", str(rows))
    says(page, "#first-rows", "data/five.csv")
    for step, said in (("check", "ok: "), ("train", "talk to it"), ("compare", "held_out.jsonl")):
        page.locator(f"#first-{step}:not([disabled])").click(timeout=WAIT)
        says(page, "#first-output", said)
    picture(page, "first")
    page.locator("#first-chat:not([disabled])").click(timeout=WAIT)
    says(page, "#chat-told", "Ready: five, base")
    page.locator("#chat-say textarea").fill("What is number 3?")
    page.keyboard.press("Enter")
    page.locator("#tuned").get_by_role("button", name="Like", exact=True).wait_for(timeout=WAIT)
    assert "data/five.csv" in (board.folder / "configs" / "five.yaml").read_text(encoding="utf-8")
    (board.folder / "data" / "five.csv").unlink()  # the newest file is what other tests begin with


def test_fields_and_text_are_one(page: Any, board: Running) -> None:
    config(page, board, "fields", 3)
    field = page.locator("#field-output-dir textarea, #field-output-dir input").last
    wanted = "[...document.querySelectorAll('#field-output-dir textarea, #field-output-dir input')].pop()?.value"
    page.wait_for_function(f"{wanted} == 'runs/fields'", timeout=WAIT)
    field.fill("runs/other")
    page.locator("#head").click()
    says(page, "#yaml", "runs/other")


def test_stopped_reloaded_and_gone_on_with(page: Any, board: Running) -> None:
    """A page that was closed finds its job; a job that was stopped goes on where it was."""
    config(page, board, "long", 5000)
    page.locator("#start").click()
    says(page, "#train-output", "runs")
    until(lambda: any((board.folder / "runs" / "long").glob("checkpoint-*")))
    visit(page, board)
    tab(page, "Runs")
    says(page, "#run-output", "train-long: runs")
    page.locator("#stop").click()
    says(page, "#run-output", "was stopped")
    page.locator("#resume").click()
    says(page, "#run-output", "train-long: runs")
    says(page, "#run-output", "continuing from")
    says(page, "#run-output", "of 5000, ")
    picture(page, "progress")
    page.locator("#stop").click()
    says(page, "#run-output", "was stopped")


def test_a_board_that_is_killed_loses_nothing(page: Any, board: Running) -> None:
    config(page, board, "lasting", 5000)
    page.locator("#start").click()
    until(lambda: any((board.folder / "runs" / "lasting").glob("checkpoint-*")))
    board.kill()
    before = len((board.folder / "runs" / "lasting" / "metrics.jsonl").read_bytes())
    board.start()
    until(lambda: len((board.folder / "runs" / "lasting" / "metrics.jsonl").read_bytes()) > before)
    visit(page, board)
    tab(page, "Runs")
    says(page, "#run-output", "train-lasting: runs")
    config(page, board, "queued", 2)
    page.locator("#start").click()
    says(page, "#train-output", "waits for its turn")
    tab(page, "Runs")
    page.locator("#job input").click()
    page.get_by_role("option", name="train-lasting").click()
    page.locator("#stop").click()
    tab(page, "Train")
    says(page, "#train-output", "finished")


def test_what_is_wrong_is_said(page: Any, board: Running) -> None:
    """A file that is none, a config that is none, a path that leads away."""
    (board.folder / "broken.json").write_text('{"a": [1, ', encoding="utf-8")
    tab(page, "Data")
    page.set_input_files("#drop input[type=file]", str(board.folder / "broken.json"))
    says(page, "#dropped", "data/broken.json")
    drawn(page, "source", "data/broken.json")
    for patience in (WAIT / 9, WAIT):  # perhaps twice, for the tab and for the file: a click between them is lost
        page.locator("#run-data").click()
        with suppress(playwright.TimeoutError):
            says(page, "#data-output", "has failed", patience)
            break
    says(page, "#data-output", "error: data/broken.json")
    config(page, board, "away", 2)
    editor = page.locator("#yaml .cm-content")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("model: tiny\ndata: {train: [/etc/passwd]}\noutput: runs/away\n")
    page.locator("#head").click()
    says(page, "#problems", "This can be run")
    page.locator("#start").click()
    page.get_by_text("leads out of").first.wait_for(timeout=WAIT)


def test_a_config_that_does_not_fit(page: Any, board: Running) -> None:
    (board.folder / "configs" / "big.yaml").write_text(
        "model: tiny\ndata: {train: [rows.csv], held_out: 0.1, max_length: 200}\noutput: runs/big\n", encoding="utf-8"
    )
    command(page, "tools", "check", config="configs/big.yaml", memory="50MB")
    says(page, "#tools-output", "does not fit, nor with any of these")


HOSTILE = "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script>"


def test_rows_are_looked_at_counted_and_cleaned(page: Any, board: Running) -> None:
    """Trained tokens in green, histograms, what was dropped and why; a script in rows is only text."""
    twice = f"What is {HOSTILE}?,It is an answer that is said twice.\n"
    (board.folder / "odd.csv").write_text(ROWS + twice * 2, encoding="utf-8")
    tab(page, "Data")
    page.set_input_files("#drop input[type=file]", str(board.folder / "odd.csv"))
    says(page, "#dropped", "data/odd.csv")
    says(page, "#data-output", "42 rows, format ")  # what it is, without being asked
    drawn(page, "source", "data/odd.csv")
    command(page, "data", "data show", model="tiny", rows="41")
    says(page, "#data-output", "<script>")
    command(page, "data", "data stats", model="tiny")
    page.locator("#data-output img.written").wait_for(timeout=WAIT)
    picture(page, "counted")
    command(page, "data", "data clean")
    says(page, "#data-output", "odd.csv, cleaned")
    picture(page, "cleaned")
    assert page.evaluate("window.harmed") is None
    (board.folder / "data" / "odd.csv").unlink()


def test_what_is_liked_is_kept(page: Any, board: Running) -> None:
    """A tuned model and its base answer side by side; a thumb up keeps both as a row to train on."""
    peft = pytest.importorskip("peft")
    base = build_model(len(build_tokenizer()))
    base.name_or_path = str(board.folder / "tiny")
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)  # which answers otherwise
    peft.get_peft_model(base, settings).save_pretrained(board.folder / "runs" / "liked")
    (board.folder / "runs" / "liked" / "run.json").write_text('{"config": {}}', encoding="utf-8")
    tab(page, "Chat")
    page.wait_for_function("document.querySelector('#chat-model input').value.startsWith('runs/')", timeout=WAIT)
    page.locator("#chat-model input").fill("runs/liked")
    page.keyboard.press("Enter")
    page.locator("#chat-load").click()
    says(page, "#chat-told", "Ready: liked, base")
    page.locator("#chat-say textarea").fill(HOSTILE)
    page.keyboard.press("Enter")
    thumb = page.locator("#tuned").get_by_role("button", name="Like", exact=True)
    thumb.wait_for(timeout=WAIT)
    page.locator("#tuned [data-testid=status-tracker].hide").wait_for(state="attached", timeout=WAIT)
    thumb.click()
    file = board.folder / "data" / "liked.jsonl"
    until(file.exists)
    row = json.loads(file.read_text(encoding="utf-8"))
    assert row["prompt"] == [{"role": "user", "content": HOSTILE}] and page.evaluate("window.harmed") is None
    assert len(row["chosen"][0]["content"]) > 100, "cut off"
    assert row["chosen"][0]["content"] != row["rejected"][0]["content"]
    file.unlink()  # the newest file is what other tests begin with
    picture(page, "chat")

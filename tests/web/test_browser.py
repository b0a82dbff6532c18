"""The board in a real browser: what a visitor does, and what becomes of it when page, board or job are lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from luthier.drive import jobs
from luthier.web.texts import LANGUAGES, Speaker
from tests.conftest import build_model, build_tokenizer

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
COMMANDS = pytest.importorskip("luthier.web.app").COMMANDS
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)"),
]
PICTURES = os.environ.get("LUTHIER_PICTURES")
"""A folder for pictures of every tab."""
ROWS = "question,answer\n" + "".join(f"What is number {n}?,It is number {n} of forty.\n" for n in range(40))
WAIT = 300_000
"""Milliseconds for what takes seconds on an idle machine, and minutes on one that reads its libraries anew."""


class Running:
    """A board in a process of its own, on a folder of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {**os.environ, "LUTHIER_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        line = [sys.executable, "-m", "luthier", "web", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(line, env=self.environment, cwd=self.folder, stdout=subprocess.DEVNULL)
        started = time.monotonic()
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() - started < 300, "the board does not start"
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, home = tmp_path_factory.mktemp("board"), tmp_path_factory.mktemp("home")
    tokenizer = build_tokenizer()
    build_model(len(tokenizer)).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "data").mkdir()
    for place in ("rows.csv", "data/rows.csv"):
        (folder / place).write_text(ROWS, encoding="utf-8")
    a_job_of_before(folder, home)
    running = Running(folder, home)
    yield running
    running.kill()


def a_job_of_before(folder: Path, home: Path) -> None:
    """A training that has failed, with colours in its output and metrics to draw."""
    text = "model: tiny\ndata: {train: [data/rows.csv]}\noutput: runs/before\n"
    metrics = [{"step": step, "loss": 3 / step, "held_out_loss": 4 / step, "grad_norm": 1.0} for step in range(1, 9)]
    colours = "".join(f"\x1b[{code}mcolour {code}\x1b[0m\n" for code in (0, 1, 2, *range(31, 38), *range(91, 98)))
    job = home / "jobs" / "000001-train-before"
    for place, said in {
        folder / "configs" / "before.yaml": text,
        folder / "runs" / "before" / "metrics.jsonl": "".join(f"{json.dumps(row)}\n" for row in metrics),
        job / "log.txt": colours,
        job / "exit.txt": "1\n",
        job / "job.json": json.dumps(
            {"arguments": ["train", "configs/before.yaml"], "cwd": str(folder), "queued": True}
        ),
    }.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(said, encoding="utf-8")


@pytest.fixture(autouse=True)
def nothing_goes_on(board: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainings wait for each other: what a test leaves running would hold up the next one."""
    monkeypatch.setenv("LUTHIER_HOME", board.environment["LUTHIER_HOME"])
    yield
    for one in jobs.jobs():
        one.stop()
    until(lambda: not any(one.status in jobs.LIVE for one in jobs.jobs()))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(board: Running, browser: Any) -> Iterator[Any]:
    """A fresh visit; nothing may be asked of anyone but the board."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, locale="en-US")
    opened = context.new_page()
    away, gone = list[str](), list[str]()

    def answered(answer: Any) -> None:
        if answer.status > 399 and "queue/join" not in answer.url:  # a click on a form that is just drawn anew
            gone.append(f"{answer.status} {answer.url}")

    opened.on("response", answered)
    opened.on("request", lambda request: away.append(request.url) if not _own(request.url, board.url) else None)
    visit(opened, board)
    yield opened
    context.close()
    assert away == [] and gone == []


def _own(url: str, own: str) -> bool:
    return url.startswith((own, "data:", "blob:"))


def visit(page: Any, board: Running, path: str = "/") -> None:
    page.goto(board.url + path, timeout=WAIT)
    page.wait_for_selector("#first-drop", timeout=WAIT)


def tab(page: Any, name: str) -> None:
    """Opens a tab; on a narrow page most of them are behind a button."""
    there = page.get_by_role("tab", name=name, exact=True)
    if there.count() == 0:
        page.get_by_role("button", name="More tabs").click()
        there = page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True)
    there.click()


def config(page: Any, board: Running, run: str, steps: int) -> None:
    """Writes a config into the page, as text."""
    tab(page, "Train")
    says(page, "#field-data-train", "data/rows.csv")
    text = (
        f"model: tiny\ndata: {{train: [data/rows.csv], held_out: 0.2, max_length: 200}}\noutput: runs/{run}\n"
        f"train: {{max_steps: {steps}, epochs: 1000, batch_size: 4, save_every: 2 steps, evaluate_every: null}}\n"
    )
    editor = page.locator("#yaml .cm-content")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
    page.locator("#head").click()
    page.wait_for_function("document.querySelector('#problems').innerText.includes('This can be run')", timeout=WAIT)


def says(page: Any, place: str, words: str, patience: float = WAIT) -> None:
    found = f"document.querySelector('{place}') && document.querySelector('{place}').innerText.includes('{words}')"
    page.wait_for_function(found, timeout=patience)


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True)


def until(said: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not said():
        assert time.monotonic() - started < 90
        time.sleep(0.1)


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
    chosen = "document.querySelector('#field-source input')?.value == 'data/broken.json'"
    page.wait_for_function(chosen, timeout=WAIT)  # the form is drawn anew, with the newest file
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
    page.locator("#chat-say textarea").fill("What is number 3?")
    page.keyboard.press("Enter")
    thumb = page.locator("#tuned").get_by_role("button", name="Like", exact=True)
    thumb.wait_for(timeout=WAIT)
    page.locator("#tuned [data-testid=status-tracker].hide").wait_for(state="attached", timeout=WAIT)
    thumb.click()
    file = board.folder / "data" / "liked.jsonl"
    until(file.exists)
    row = json.loads(file.read_text(encoding="utf-8"))
    assert row["prompt"] == [{"role": "user", "content": "What is number 3?"}]
    assert len(row["chosen"][0]["content"]) > 100, "cut off"
    assert row["chosen"][0]["content"] != row["rejected"][0]["content"]
    picture(page, "chat")


SEEN = {"first": "#first-chat", "data": "#run-data", "train": "#field-output-dir", "runs": "#run-output svg.curve",
        "chat": "#chat-say", **{name: f"#run-{name}" for name in COMMANDS}}  # fmt: skip
"""Every tab, and what is there when it is drawn."""


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_every_tab_is_accessible(page: Any, board: Running, language: str, theme: str, width: int) -> None:
    """No serious finding of axe-core, in both languages and themes, at the width of a desk and of a phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size({"width": width, "height": 900})
    visit(page, board, f"/{language}/?__theme={theme}")
    for key, seen in SEEN.items():
        tab(page, Speaker(language)(f"tab.{key}"))
        if key == "runs":
            page.locator("#job input").click()
            page.get_by_role("option", name="train-before").click()
        page.locator(seen).first.wait_for(timeout=WAIT)
        page.wait_for_timeout(500)  # what is drawn anew fades in
        picture(page, f"{language}-{theme}-{width}-{key}")
        findings = {
            (found["id"], node["html"][:200])
            for found in axe.run(page).response["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        }
        assert findings == set(), key
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), key


def test_the_language_of_the_browser(board: Running, browser: Any) -> None:
    context = browser.new_context(locale="zh-CN")
    opened = context.new_page()
    visit(opened, board)
    assert opened.url.rstrip("/").endswith("/zh")
    opened.get_by_role("link", name="English").click()
    opened.get_by_text("drop a file").first.wait_for(timeout=WAIT)
    context.close()

"""A board and a browser for tests, and what a visitor does with both."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.drive import jobs
from luthier.web.texts import Speaker
from tests.conftest import build_model, build_tokenizer

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SLOW = [
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
    says(page, "#yaml", "data/rows.csv")
    text = (
        f"model: tiny\ndata: {{train: [data/rows.csv], held_out: 0.2, max_length: 200}}\noutput: runs/{run}\n"
        f"train: {{max_steps: {steps}, epochs: 1000, batch_size: 4, save_every: 2 steps, evaluate_every: null}}\n"
    )
    editor = page.locator("#yaml .cm-content")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
    page.locator("#head").click()
    drawn(page, "output-dir", f"runs/{run}")
    says(page, "#problems", "This can be run")


def drawn(page: Any, field: str, value: str) -> None:
    """Waits until a form is drawn with a value, such as the newest file."""
    waits(
        page, f"[...document.querySelectorAll('#field-{field} :is(input, textarea)')].pop()?.value == '{value}'", WAIT
    )


def command(page: Any, name: str, words: str, **said: str) -> None:
    """Runs a command of a tab with what its fields are told, which the line for a terminal says again."""
    say = Speaker("en")
    tab(page, say(f"tab.{name}"))
    page.get_by_text(say(f"command.{words.replace(' ', '_')}"), exact=True).locator("visible=true").click()
    line = page.locator(".cm-content").locator("visible=true")
    line.filter(has_text=f"luthier {words}").first.wait_for(timeout=WAIT)
    for key, value in said.items():
        field = page.locator(f"#field-{key} :is(input, textarea)").locator("visible=true").last
        field.fill(value)
        page.keyboard.press("Enter")
        line.filter(has_text=value).first.wait_for(timeout=WAIT)
    job = f"document.querySelector('#{name}-output p.status')?.innerText.split(':')[0]"
    before = page.evaluate(job)
    page.locator(f"#run-{name}").locator("visible=true").click()
    page.wait_for_function(f"{job} != {json.dumps(before)}", timeout=WAIT)


def says(page: Any, place: str, words: str, patience: float = WAIT) -> None:
    waits(page, f"document.querySelector('{place}')?.innerText.includes('{words}')", patience)


def waits(page: Any, found: str, patience: float) -> None:
    """Until an expression is true; a picture says what there was instead."""
    try:
        page.wait_for_function(found, timeout=patience)
    except playwright.TimeoutError:
        picture(page, "waited")
        raise


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True)


def until(said: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not said():
        assert time.monotonic() - started < 90
        time.sleep(0.1)

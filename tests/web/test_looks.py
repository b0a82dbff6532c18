"""How the board looks: readable by everyone, in both languages, colours and widths, and as it looked before."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.web.texts import LANGUAGES, Speaker
from tests.web.browser import SLOW, WAIT, Running, board, browser, nothing_goes_on, page, picture, tab, visit

pytestmark = SLOW
__all__ = ["board", "browser", "nothing_goes_on", "page"]
COMMANDS = pytest.importorskip("luthier.web.app").COMMANDS
Image = pytest.importorskip("PIL.Image")
LOOKS = Path(__file__).with_name("looks.json")
"""Grey tiles of every tab, to be written anew with LUTHIER_LOOKS=1 where a tab is meant to look otherwise."""
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
        if (language, width) == ("en", 1200) and key != "runs":
            alike(page, f"{theme}-{key}")
        findings = {
            (found["id"], node["html"][:200])
            for found in axe.run(page).response["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        }
        assert findings == set(), key
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), key


def alike(page: Any, name: str) -> None:
    """Whether a tab looks as it did, from afar: grey tiles of the window, which blank or unstyled pages do not have."""
    seen = Image.open(BytesIO(page.screenshot())).convert("L").resize((24, 18))
    looks = json.loads(LOOKS.read_text(encoding="utf-8")) if LOOKS.exists() else {}
    if os.environ.get("LUTHIER_LOOKS"):
        LOOKS.write_text(json.dumps(looks | {name: seen.tobytes().hex()}, indent=0, sort_keys=True), encoding="utf-8")
        return
    before = np.frombuffer(bytes.fromhex(looks[name]), np.uint8)
    assert np.corrcoef(before, np.asarray(seen).ravel())[0, 1] > 0.9, f"{name} looks otherwise"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_and_the_keys_of_the_system(board: Running, browser: Any, scheme: str) -> None:
    """Dark where the system is; every step of the first page is reached by the Tab key."""
    context = browser.new_context(color_scheme=scheme, locale="en-US")
    opened = context.new_page()
    visit(opened, board)
    opened.wait_for_function(
        f"document.body.classList.contains('dark') == {str(scheme == 'dark').lower()}", timeout=WAIT
    )
    reached = set()
    for _ in range(40):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("document.activeElement.closest('[id]')?.id"))
    assert {"first-example"} <= reached
    context.close()


def test_the_language_of_the_browser(board: Running, browser: Any) -> None:
    context = browser.new_context(locale="zh-CN")
    opened = context.new_page()
    visit(opened, board)
    assert opened.url.rstrip("/").endswith("/zh")
    opened.get_by_role("link", name="English").click()
    opened.get_by_text("drop a file").first.wait_for(timeout=WAIT)
    context.close()

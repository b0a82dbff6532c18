"""Before the board is there: visits are answered, and the same socket goes on to the board."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request

import pytest

from luthier.system.address import listening
from luthier.web.early import waiting
from luthier.web.texts import Speaker


@pytest.mark.parametrize("language", ["en", "zh"])
def test_who_comes_early_is_answered(language: str) -> None:
    door = listening("127.0.0.1", 0)
    url = f"http://127.0.0.1:{door.getsockname()[1]}/{language}/?a=b"
    with waiting(door):
        answer = urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Language": language}))
        page = answer.read().decode()
    assert Speaker(language)("app.starting") in page and 'http-equiv="refresh"' in page
    visitor = socket.create_connection(door.getsockname()[:2], timeout=5)  # who comes between them waits at the door
    there, _ = door.accept()
    there.close()
    visitor.close()
    door.close()


def test_gradio_writes_no_stubs_and_asks_nobody() -> None:
    """Nor does it find the sources of its components, and the board's own functions are found again afterwards."""
    pytest.importorskip("gradio")
    code = (
        "import inspect, os, pathlib; from luthier.web.early import import_gradio as early\n"
        "def refused(*_, **__): raise AssertionError('written')\n"
        "pathlib.Path.write_text = refused; early(); import gradio\n"
        "assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False' and inspect.getfile(early).endswith('early.py')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""`luthier serve`: it says that it serves when it does, and a wrong address costs no loading."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from luthier.cli.main import app
from luthier.errors import UserError
from luthier.system.address import listening


@pytest.mark.slow
def test_what_it_says_can_be_asked_at_once(tiny: Path) -> None:
    pytest.importorskip("fastapi")
    line = [sys.executable, "-m", "luthier", "serve", str(tiny), "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}) as server:
        assert server.stdout is not None
        try:
            said = re.search(r"serving (\S+) at (http://127\.0\.0\.1:[1-9]\d*/v1)", server.stdout.readline())
            assert said is not None
            with urllib.request.urlopen(f"{said[2]}/models", timeout=60) as answer:
                assert json.load(answer)["data"][0]["id"] == said[1]
        finally:
            server.terminate()


def test_an_address_that_is_taken_is_named_before_anything_is_loaded() -> None:
    pytest.importorskip("fastapi")
    with listening("127.0.0.1", 0) as door, pytest.raises(UserError, match="another --port"):
        line = ["serve", "no/such-model", "--port", str(door.getsockname()[1])]
        CliRunner().invoke(app, line, catch_exceptions=False)

"""A run is certified with the model in memory, and exports of it are held against that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import CertificateError
from luthier.export import certificate
from luthier.export.base import Subject
from luthier.export.folders import Merged
from luthier.export.write import export
from luthier.factory import Factory

pytestmark = pytest.mark.whole


def test_a_run_and_an_export_of_it(run_config: Callable[..., Any], tmp_path: Path) -> None:
    config = run_config(adapter={"type": "lora", "rank": 4}, train__learning_rate=5e-2)
    Factory().fine_tune(config)
    run = Path(config.output.dir)
    assert certificate.verify(run)["log_probability"] < 1e-4
    export(Subject(str(run)), Merged(), tmp_path / "merged")
    told = [json.loads((folder / certificate.NAME).read_text()) for folder in (run, tmp_path / "merged")]
    assert told[0]["prompts"] == told[1]["prompts"] and len(told[0]["prompts"]) == certificate.RUN_PROMPTS
    assert told[1]["about"]["data"] and told[1]["about"]["config"]["adapter"]["rank"] == 4
    file = run / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 1}))
    with pytest.raises(CertificateError, match=r"(?s)adapter_config\.json was changed.*log_probability is"):
        certificate.verify(run)

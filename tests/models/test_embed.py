"""Sentence embeddings: their definition, whatever else is in the batch, however long; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.errors import ModelError
from luthier.models.catalogue import entries
from luthier.models.embed import BATCH, Embedder

TEXTS = ["a model", "What is the capital of France?", "", "x" * 20, "Wie geht es dir?\n\n你好"]


def defined(embedder: Embedder, text: str) -> Any:
    """The mean of the last states of one text alone, of length 1."""
    ids = torch.tensor([embedder.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        mean = embedder.model(input_ids=ids).last_hidden_state[0].mean(0)
    return (mean / mean.norm()).numpy()


def test_each_is_its_definition_in_any_batch(encoder: Path) -> None:
    embedder = Embedder.load(str(encoder))
    texts = [text for text in TEXTS if text] * (BATCH // 2)
    found = embedder.encode(texts)
    assert found.dtype == np.float32 and found.shape == (len(texts), 32)
    for text, vector in zip(texts[:4], found, strict=False):
        np.testing.assert_allclose(vector, defined(embedder, text), atol=1e-6)
    np.testing.assert_allclose(embedder.encode(texts[::-1]), found[::-1], atol=1e-6)
    assert embedder.encode([]).shape == (0, 32)
    assert np.isfinite(embedder.encode(TEXTS)).all()


def test_nothing_of_a_long_text_is_cut_off(encoder: Path) -> None:
    embedder = Embedder.load(str(encoder))
    start = "a model and a model " * 40
    one, other, again = embedder.encode([start + "ends", start + "France France France", start + "ends"])
    assert one @ other < 0.99999 and one @ again > 0.999999


def test_the_window_is_the_shortest_that_anything_names(encoder: Path, tmp_path: Path) -> None:
    assert Embedder.load(str(encoder)).window == 32
    other = tmp_path / "encoder"
    shutil.copytree(encoder, other)
    (other / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    assert Embedder.load(str(other)).window == 16


def test_what_is_no_encoder(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        Embedder.load(str(tmp_path))
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ModelError, match="not an encoder of sentences; use a folder of one, or minilm-l6-v2"):
        Embedder.load(str(tmp_path / "a.gguf"))
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(encoder, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.layer.0.attention.self.query.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing: encoder\.layer\.0"):
        Embedder.load(str(broken))
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"minilm-l6-v2 is not on this machine yet; .*luthier models fetch minilm-l6-v2"
    ):
        Embedder.load.__wrapped__("minilm-l6-v2")


@pytest.mark.slow
@pytest.mark.skipif(not entries()["minilm-l6-v2"].fetched, reason="luthier models fetch minilm-l6-v2")
def test_what_the_real_one_takes_to_be_alike() -> None:
    texts = ["How do I reset my password?", "I forgot my login.", "The river rises in the hills."]
    one, like, other = Embedder.load("minilm-l6-v2").encode(texts)
    assert one @ like > 0.5 > 0.2 > one @ other

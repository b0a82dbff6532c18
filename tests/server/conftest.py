"""A server of the tests: the real one, on a port of the loopback, with a tiny model and two adapters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from luthier.models.load import ModelLoader
from luthier.server.app import Settings, create
from luthier.server.models import Models
from tests.conftest import build_model


@pytest.fixture(scope="package")
def talkative(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with a model that says something else after every prompt, and seldom ends."""
    folder = tmp_path_factory.mktemp("models") / "talkative"
    build_model(len(tokenizer), initializer_range=0.3, tie_word_embeddings=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def tuned(tmp_path_factory: pytest.TempPathFactory, talkative: Path) -> Path:
    """A folder of two adapters, `one` and `two`, of the talkative model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(talkative)
        settings = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "down_proj"])
        get_peft_model(base, settings).save_pretrained(root / name)
    return root


@contextmanager
def serving(models: Models, settings: Settings = Settings()) -> Iterator[str]:
    """The address of a server while it serves; its models are closed at the end."""
    config = uvicorn.Config(create(models, settings), port=0, log_level="error", timeout_graceful_shutdown=20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="package")
def opened(talkative: Path, tuned: Path) -> Callable[..., Models]:
    """Opens the talkative model."""

    def make(*adapters: str, slots: int = 4, queue: int = 16) -> Models:
        models = Models(str(talkative), ModelLoader(), slots=slots, queue=queue)
        for name in adapters:
            models.load(name, tuned / name)
        return models

    return make


@pytest.fixture(scope="package")
def address(opened: Callable[..., Models], encoder: Path, talkative: Path) -> Iterator[str]:
    """The address of an open server with everything."""
    from luthier.models.embed import Embedder

    models = opened("one", "two")
    judge = {"judge": lambda tasks, answers: [float(len(answer)) for answer in answers]}
    models.others = {"encoder": {"encoder": Embedder.load(str(encoder))}, "reward model": judge}
    with serving(models) as url:
        yield url


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits until something is so."""

    def wait(so: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not so():
            assert time.monotonic() < end, "it never was so"
            time.sleep(0.01)

    return wait

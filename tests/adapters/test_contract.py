"""What every kind of adapter owes, through whole runs: it learns, and what it saves is the model that was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import luthier
from luthier.adapters.base import Adapter, count_parameters, trainable
from luthier.adapters.base import Run as AdapterRun
from luthier.adapters.merge import merge, merged
from luthier.assembly import Assembly
from luthier.config import ModelConfig
from luthier.errors import Interrupted, ModelError
from luthier.factory import FineTuned
from luthier.models.load import ModelLoader
from luthier.models.output import Forward
from luthier.plugins import names
from luthier.train.observers.base import Observer, Progress
from tests.adapters.conftest import build_qwen3, rows, shake
from tests.adapters.kinds import KINDS, Kind
from tests.conftest import build_model, chat_rows

STEPS = 5
IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS, use_cache=False).logits[:, -IDS.shape[1] :]
    return found


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


class Run:
    """A whole run of one kind, and the folder of its base."""

    def __init__(self, kind: Kind, config: Any, base: Path) -> None:
        self.kind, self.config, self.base = kind, config, base
        self.folder = Path(config.output.dir)
        self.losses: list[float] = []
        self.tuned: FineTuned = luthier.Factory().fine_tune(config, observers=[self.watch()])
        self.logits = logits(self.tuned.model)

    def watch(self) -> Observer:
        losses = self.losses

        class Watch(Observer):
            def on_step(self, progress: Progress) -> bool:
                losses.append(progress.loss)
                return False

        return Watch()


@pytest.fixture(scope="module")
def settings(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Makes the config of a tiny run of a kind."""
    rows = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(20)))

    def make(kind: Kind, folder: Path, model: Path = tiny, **train: Any) -> Any:
        from luthier.config import parse_config

        return parse_config(
            {
                "model": str(model),
                "data": {"train": [str(rows)], "held_out": 0.2, "max_length": 256},
                "adapter": kind.settings,
                "train": {"max_steps": STEPS, "batch_size": 8, "learning_rate": kind.rate, "save_every": 2} | train,
                "output": {"dir": str(folder), "final": "last", "keep": 9},
            }
        )

    return make


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, settings: Any, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    kind = KINDS[request.param]
    return Run(kind, settings(kind, tmp_path_factory.mktemp("runs") / "run"), tiny)


def base_of(run: Run) -> Any:
    """The model that the run started from, as it was loaded."""
    return ModelLoader().load(ModelConfig(path=str(run.base)), bits=run.kind.bits)


def test_every_kind_is_here() -> None:
    assert {kind.settings["type"] for kind in KINDS.values()} == set(names("adapter"))


def test_it_learns(run: Run) -> None:
    assert len(run.losses) == STEPS
    assert min(run.losses[-2:]) < run.losses[0] - 0.01


def attached(config: Any) -> Any:
    """The model of a run as it is before the first step."""
    factory = luthier.Factory()
    ready, strategy = factory.prepare(config), config.parallel.open()
    assembly = Assembly(config, ready, strategy, models=factory.models, evaluator=factory.evaluator)
    return assembly.job(restart=True).trained.model


def test_step_0_and_the_number_of_trained_parameters(run: Run) -> None:
    base = base_of(run)
    before, total = logits(base), count_parameters(base)[1]
    model = attached(run.config)
    count, every = count_parameters(model)
    assert count == run.kind.trained(before.shape[-1])
    assert every == total if not run.kind.frozen_base else every >= total
    if run.kind.start is not None:
        assert apart(logits(model), before) <= run.kind.start
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    assert cast(Adapter, run.config.adapter).virtual_tokens == run.kind.settings.get("num_virtual_tokens", 0)


def test_what_was_not_trained_stayed_as_it_was(run: Run) -> None:
    trained = set(map(id, trainable(run.tuned.model).values()))
    own = dict(base_of(run).named_parameters())
    frozen = {name: p for name, p in run.tuned.model.named_parameters() if id(p) not in trained}
    plain_names = {name.replace(".base_layer", "").replace(".original_module", ""): p for name, p in frozen.items()}
    after = {end: p for name, p in plain_names.items() for end in own if name.endswith(end)}
    assert len(after) >= (len(own) - 2 if run.kind.frozen_base else len(own) - len(trained))
    for name, parameter in after.items():
        assert torch.equal(own[name], parameter), name


def test_plain_libraries_load_the_same_model(run: Run) -> None:
    assert apart(logits(plain(run.folder, run)), run.logits) == 0
    checkpoint = run.folder / f"checkpoint-{STEPS}"
    assert apart(logits(plain(checkpoint, run)), run.logits) == 0
    usual = {"optimizer.safetensors", "random.safetensors", "adapter_model.safetensors", "model.safetensors"}
    assert {p.name for p in checkpoint.glob("*.safetensors")} - usual == set(run.kind.extra)


def plain(folder: Path, run: Run) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from luthier.models.find import find
    from luthier.models.load import _keep_differentiable, _quantised

    more = _quantised(find(str(run.base)), str(run.base), run.kind.bits, torch.float32)
    if (folder / "adapter_config.json").exists():
        base = AutoModelForCausalLM.from_pretrained(run.base, **more)
        _keep_differentiable(base)  # plain bitsandbytes answers by another kernel on some CPUs
        return PeftModel.from_pretrained(base, str(folder))
    return AutoModelForCausalLM.from_pretrained(folder)


def test_luthier_loads_the_same_model(run: Run) -> None:
    config = ModelConfig(path=str(run.folder))
    assert apart(logits(ModelLoader().load(config, bits=run.kind.bits)), run.logits) == 0
    assert apart(logits(ModelLoader().load_for_use(config)), run.logits) == 0


def test_merging(run: Run) -> None:
    if run.kind.settings["type"] in ("full", "freeze"):
        with pytest.raises(ModelError, match="holds no adapter"):
            merged(str(run.folder))
        return
    if not run.kind.merges:
        with pytest.raises(ModelError, match="cannot be merged"):
            merged(str(run.folder))
        return
    expected = logits(ModelLoader().load(ModelConfig(path=str(run.folder))))
    found = merged(str(run.folder))
    assert type(found) is type(ModelLoader().load(ModelConfig(path=str(run.base)))) and found.dtype is torch.float32
    assert apart(logits(found), expected) < 1e-5


def tensors(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
        if "checkpoint-3" not in str(file)
    }


class StopAt(Observer):
    def on_step(self, progress: Progress) -> bool:
        return progress.state.step == 3


def test_a_resumed_run_equals_an_uninterrupted_one(run: Run, settings: Any, tmp_path: Path) -> None:
    config = settings(run.kind, tmp_path / "parts")
    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(config, observers=[StopAt()])
    luthier.Factory().fine_tune(config)
    assert tensors(tmp_path / "parts") == tensors(run.folder)


def test_a_tuned_folder_can_be_tuned_on(run: Run, settings: Any, tmp_path: Path) -> None:
    config = settings(run.kind, tmp_path / "next", model=run.folder)
    assert apart(logits(attached(config)), run.logits) < 2e-6
    again = Run(run.kind, config, run.folder)
    assert apart(again.logits, run.logits) > 1e-4
    assert apart(logits(plain(again.folder, run)), again.logits) == 0


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.frozen_base and kind.bits is None])
def test_another_shape(name: str, tmp_path: Path, padded: Callable[..., Any]) -> None:
    """Qwen3: norms on queries and keys, heads that are not width / heads wide, a head of its own."""
    from peft import PeftModel

    kind = KINDS[name]
    base = build_qwen3().eval()
    base.name_or_path = "base"
    before = logits(base)
    part = luthier.plugins.load("adapter", kind.settings["type"]).model_validate(kind.settings)
    batch = padded(*rows(40, 50, 60))

    def calibrate(model: Any) -> Any:
        while True:
            yield Forward(model)(model, batch)

    tuned = part.attach(base, AdapterRun(total_steps=50, calibrate=calibrate))
    if kind.start is not None:
        assert apart(logits(tuned), before) <= kind.start
    shake(tuned, 0.02)
    said = logits(tuned)
    assert apart(said, before) > 1e-3
    part.save(tuned, tmp_path)
    plain = build_qwen3().eval()
    loaded: Any = PeftModel.from_pretrained(plain, str(tmp_path))
    assert apart(logits(loaded), said) == 0
    if kind.merges:
        assert apart(logits(merge(loaded)), said) < 1e-5


def test_blocks_of_oft_that_do_not_divide() -> None:
    """peft would quietly turn other blocks than the config says."""
    from luthier.adapters.oft import Oft

    with pytest.raises(ModelError, match=r"oft_block_size: 48 does not divide the 64 inputs of model\.layers\.0"):
        Oft(oft_block_size=48).attach(build_model(256))

"""Errors of steps, weights and resuming; the table of all of them is in `test_seeded.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier import assembly
from luthier.adapters.lora import Lora
from luthier.data import pack
from luthier.data.loader import Loader
from luthier.errors import ModelError, OutputError
from luthier.factory import Factory
from tests.adapters import test_lora, test_merge
from tests.faults.planting import Make, Patch, Plant, found, refused, stopped
from tests.invariance import test_layout, test_resume
from tests.objectives.conftest import pair_rows
from tests.train.test_check_model import leaking

# ---- steps -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mean_of_means(caught: Callable[..., None]) -> None:
    """Each micro-batch is divided by its own units, and their sum by their number."""
    from luthier.distributed.single import SingleStrategy
    from luthier.train import step

    def plant(patch: Patch) -> None:
        def loss_of(job: Any, units: float, penalty: Any) -> Any:
            def share(model: Any, batch: Any) -> Any:
                loss, _ = job.objective.loss(job.forward(model, batch), batch)
                return loss / max(job.objective.units(batch), 1), {}

            return share

        real = SingleStrategy.forward_backward

        def mean(self: Any, model: Any, batches: Any, share: Any) -> Any:
            return real(self, model, batches, lambda model, batch: (share(model, batch)[0] / len(batches), {}))

        patch.setattr(step, "_loss_of", loss_of)
        patch.setattr(SingleStrategy, "forward_backward", mean)

    caught(plant, test_layout.test_one_row_at_a_time_equals_all_at_once, adapter="lora")
    caught(plant, test_layout.test_the_token_budget_changes_nothing)


def test_packing_contamination(run_config: Make, tmp_path: Path, tokenizer: Any, monkeypatch: Patch) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from luthier.kernels import attention

    with monkeypatch.context() as patch:
        leaking(patch)
        assert found(run_config()) == {"packing"}
        refused(run_config(), "packing")
    attention.register()
    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "n_positions": 512, "n_embd": 32, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.2, eos_token_id=2, bos_token_id=1)).save_pretrained(
        tmp_path / "gpt2"
    )
    tokenizer.save_pretrained(tmp_path / "gpt2")
    config = run_config(model=str(tmp_path / "gpt2"))
    assert found(config) == set()
    real = pack._Rows.batch

    def go_on(self: Any, *given: Any, packing: bool) -> Any:
        batch = real(self, *given, packing=packing)
        return replace(batch, positions=torch.arange(batch.ids.shape[1]).expand(*batch.ids.shape))

    monkeypatch.setattr(pack._Rows, "batch", go_on)
    assert found(config) == {"definition"}


@pytest.mark.slow
def test_dropout_in_evaluation(run_config: Make, caught: Callable[..., None], monkeypatch: Patch) -> None:
    from torch.nn.functional import dropout

    from luthier.distributed.single import SingleStrategy

    config = run_config(adapter={"type": "lora", "dropout": 0.1})
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Dropout, "forward", lambda self, given: dropout(given, self.p))
        refused(config, "evaluation")
    real = SingleStrategy.measure

    def forgotten(self: Any, model: Any, *given: Any) -> Any:
        return real(self, model.train(), *given)

    def plant(patch: Patch) -> None:
        patch.setattr(SingleStrategy, "measure", forgotten)

    caught(plant, test_resume.test_evaluation_and_saving_do_not_touch_the_run)


# ---- weights -----------------------------------------------------------------------------------------------------


def attached(patch: Patch, change: Callable[[Any], object], part: Any = Lora) -> None:
    """Change the model once its adapter is attached."""
    real = part.attach

    def attach(self: Any, *given: Any) -> Any:
        model = real(self, *given)
        change(model)
        return model

    patch.setattr(part, "attach", attach)


def frozen(part: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.requires_grad = False

    return change


def test_an_adapter_that_is_not_trainable(run_config: Make, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        attached(patch, frozen("lora_"))
        with pytest.raises(ModelError, match="no weight of this model would be trained"):
            luthier.Factory().fine_tune(run_config())
    with monkeypatch.context() as patch:
        attached(patch, frozen("lora_B"))  # zero at first, so that A alone learns nothing either
        refused(run_config(), "gradients")
    with monkeypatch.context() as patch:
        attached(patch, lambda model: model.base_model.disable_adapter_layers())
        with pytest.raises(ModelError, match="no weight of this model would be trained"):
            luthier.Factory().fine_tune(run_config())
    with monkeypatch.context() as patch:  # recomputation that stops gradients: nothing that goes in has any
        patch.setattr(assembly, "recompute_layers", detached)
        refused(run_config(train__gradient_checkpointing=True), "gradients")
    real = assembly.parameter_groups  # type: ignore[attr-defined]

    def without_b(model: Any, *given: Any, **settings: Any) -> Any:
        frozen("lora_B")(model)
        groups = real(model, *given, **settings)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "lora_" in name
        return groups

    monkeypatch.setattr(assembly, "parameter_groups", without_b)
    refused(run_config(), "optimizer")


def detached(model: Any, every: int) -> None:
    """As older recomputation does where no input asks for gradients."""
    for layer in model.get_decoder().layers:

        def forward(*given: Any, layer: Any = layer, real: Any = layer.forward, **settings: Any) -> Any:
            with torch.set_grad_enabled(not layer.training):
                return real(*given, **settings)

        layer.forward = forward


def test_an_adapter_that_is_cut_off_in_part(run_config: Make, monkeypatch: Patch) -> None:
    """Nothing is refused, since other rows may use it; it is said."""
    from luthier.factory import Stages

    said = []

    class Listen(Stages):
        def stage(self, text: str) -> None:
            said.append(text)

    def add(model: Any) -> None:
        model.base_model.model.spare = torch.nn.Linear(3, 3)

    attached(monkeypatch, add)
    config = run_config()
    luthier.Factory().fine_tune(config, stages=Listen())
    (warning,) = (text for text in said if text.startswith("warning"))
    assert warning in (Path(config.output.dir) / "report.md").read_text()
    assert "2 of 30 trained weights get no gradient" in warning and "spare.weight" in warning


def test_a_tied_head_is_forgotten(
    run_config: Make, tmp_path: Path, tiny: Path, caught: Any, monkeypatch: Patch
) -> None:
    from safetensors.torch import load_file, save_file

    from luthier.models import output

    full = {"adapter": "full", "train__learning_rate": 1e-5}
    real = output.label_logprobs  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(output, "label_logprobs", lambda h, weight, *rest, **s: real(h, weight.detach(), *rest, **s))
        refused(run_config(**full), "gradients")
    shutil.copytree(tiny, tmp_path / "untied")
    config = tmp_path / "untied" / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    with pytest.raises(ModelError, match=r"1 weights are missing: lm_head\.weight"):
        Factory().check(run_config(model=str(tmp_path / "untied")))
    weights = load_file(tiny / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "embed" not in k}, tmp_path / "untied" / "model.safetensors")
    with pytest.raises(ModelError, match=r"weights are missing: .*embed_tokens"):
        Factory().check(run_config(model=str(tmp_path / "untied")))

    def alone(patch: Patch) -> None:
        from peft import LoraConfig

        patch.setattr("peft.LoraConfig", lambda **given: LoraConfig(**given | {"ensure_weight_tying": False}))

    caught(alone, test_lora.test_a_tied_head_is_not_forgotten, names=["lm_head"])


def test_a_wrong_reference(run_config: Make, monkeypatch: Patch) -> None:
    from luthier.models import reference

    config = run_config(pair_rows(24), objective="dpo")
    real = reference.with_columns

    def of_other_rows(examples: Any, *given: Any) -> Any:
        rows = real(examples, *given)
        said = np.concatenate([row.columns["reference"] for row in rows])[::-1]
        cuts = np.cumsum([row.supervised for row in rows])[:-1]
        return [replace(r, columns={"reference": part}) for r, part in zip(rows, np.split(said, cuts), strict=True)]

    with monkeypatch.context() as patch:
        patch.setattr(reference, "with_columns", of_other_rows)
        refused(config, "reference")
    first = run_config(train__learning_rate=3e-3, train__max_steps=8, train__epochs=9, output__dir="first")
    first = first.model_copy(update={"output": config.output.model_copy(update={"dir": config.output.dir + "-first"})})
    luthier.Factory().fine_tune(first)
    told = reference.with_reference

    def of_the_base(model: Any, *given: Any) -> Any:
        with model.disable_adapter():
            return told(model, *given)

    config = run_config(pair_rows(24), objective="dpo", model=first.output.dir)
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "with_reference", of_the_base)
        refused(config, "reference")
    assert luthier.Factory().fine_tune(config).metrics["steps"] == 4


def test_merging_in_low_precision(caught: Callable[..., None], tmp_path: Path, run_config: Make) -> None:
    from luthier.adapters import merge

    folder = tmp_path / "tuned"
    adapter = {"type": "lora", "rank": 4, "modules_to_save": ["lm_head"]}
    luthier.Factory().fine_tune(run_config(adapter=adapter, train__learning_rate=1e-2, output__dir=str(folder)))
    real = torch.nn.Module.float

    def plant(patch: Patch) -> None:
        patch.setattr(torch.nn.Module, "float", lambda self: real(self).bfloat16())

    caught(plant, test_merge.test_half_precision_does_not_matter, run=folder)
    whole = merge.ModelConfig  # type: ignore[attr-defined]

    def halved(patch: Patch) -> None:
        patch.setattr(merge, "ModelConfig", lambda **given: whole(**given | {"dtype": "bfloat16"}))

    caught(halved, test_merge.test_a_merged_folder_is_a_plain_model, run=folder)


# ---- resuming ----------------------------------------------------------------------------------------------------


def test_rank_mismatch_on_resume(run_config: Make, tmp_path: Path) -> None:
    lora = {"type": "lora", "rank": 4}
    config = run_config(adapter=lora)
    stopped(config)
    with pytest.raises(OutputError, match=r"adapter\.rank: 4 -> 8"):
        luthier.Factory().fine_tune(run_config(adapter=lora | {"rank": 8}))
    for name, other, message in (
        ("wide", lora | {"rank": 8}, "checkpoint-2: the weights do not fit this adapter: .*size mismatch"),
        ("few", lora | {"target_modules": ["q_proj"]}, "checkpoint-2: lacks weights that this adapter has"),
    ):
        theirs = stopped(run_config(adapter=other, output__dir=str(tmp_path / name)))
        shutil.rmtree(tmp_path / "run" / "checkpoint-2")
        shutil.copytree(theirs / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
        with pytest.raises(ModelError, match=message):
            luthier.Factory().fine_tune(config)


def forgets_the_rate(patch: Patch) -> None:
    """Each process counts its own steps."""
    from luthier.train import loop, step

    real, run, counts = step._set_learning_rate, loop.Trainer.train, []
    patch.setattr(loop.Trainer, "train", lambda self, job: (counts.clear(), run(self, job))[1])

    def own(job: Any, _: int) -> float:
        counts.append(1)
        return real(job, len(counts) - 1)

    patch.setattr(step, "_set_learning_rate", own)


def begins_the_epoch_anew(patch: Patch) -> None:
    real = Loader.steps
    patch.setattr(Loader, "steps", lambda self, *, epoch=0, position=0: real(self, epoch=epoch, position=0))


def runs_on(patch: Patch) -> None:
    """One generator for the life of the process."""
    generator = np.random.default_rng(0)
    patch.setattr(Loader, "order", lambda self, epoch: generator.permutation(len(self.examples)).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("plant", [forgets_the_rate, begins_the_epoch_anew, runs_on])
@pytest.mark.parametrize("settings", test_resume.SETTINGS[:1], ids=["lora"])
def test_not_restored(caught: Callable[..., None], plant: Plant, settings: dict[str, Any]) -> None:
    test: Any = test_resume.test_resumed_equals_uninterrupted
    caught(plant, test, settings=settings, stop=test_resume.FailAt)

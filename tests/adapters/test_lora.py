"""LoRA's variants and first values, each against what its paper or plain peft says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.adapters import lora_init
from luthier.adapters.base import Run, trainable
from luthier.adapters.lora import Lora
from luthier.config import ModelConfig
from luthier.errors import ConfigError, Interrupted, ModelError
from luthier.models.load import ModelLoader
from luthier.models.output import Forward
from luthier.train.observers.base import Observer, Progress
from tests.adapters.conftest import rows, shake

IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


def layer(model: Any, name: str = "q_proj") -> Any:
    return next(module for path, module in lora_init.layers(model) if path.endswith(name))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "the fast decomposition of pissa is drawn at random"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "use_dora cannot start from pissa"),
        ({"init_lora_weights": "olora", "use_dora": True}, "use_dora cannot start from olora"),
        ({"init_lora_weights": "orthogonal", "rank": 3}, "the rank, so it must be even; given: 3"),
        ({"init_lora_weights": "loftq"}, "given: 'loftq'"),
        ({"type": "qlora", "init_lora_weights": "pissa"}, "takes weights apart that a quantised base no longer has"),
        ({"type": "qlora", "bits": 3}, "given: 3"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(run_config: Callable[..., Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_config(adapter={"type": "lora"} | settings)


@pytest.mark.parametrize(("settings", "scale"), [({}, 2.0), ({"alpha": 6}, 1.5), ({"use_rslora": True}, 4.0)], ids=str)
def test_the_scale(model: Any, settings: dict[str, Any], scale: float) -> None:
    assert layer(Lora(rank=4, **settings).attach(model)).scaling["default"] == scale


def test_learning_rates_of_lora_plus(model: Any) -> None:
    part = Lora(rank=4, loraplus_lr_ratio=16, use_dora=True)
    scales = {name: part.learning_rate_scale(name) for name in trainable(part.attach(model))}
    assert {scale for name, scale in scales.items() if ".lora_B." in name} == {16}
    assert {scale for name, scale in scales.items() if ".lora_B." not in name} == {1}
    assert len(scales) == 3 * 14 and {Lora().learning_rate_scale(name) for name in scales} == {1}


# ---- PiSSA and OLoRA ------------------------------------------------------------------------------------------------

STARTS = pytest.mark.parametrize("start", lora_init.DISPLACED)
SCALES = pytest.mark.parametrize("rslora", [False, True], ids=["alpha/r", "rslora"])


def plain_peft(model: Any, start: str, *, rslora: bool) -> Any:
    """As peft does it: the base becomes the rest."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        init_lora_weights=start,
        use_rslora=rslora,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings).eval()


@STARTS
@SCALES
def test_a_displaced_start_is_that_of_peft_on_an_untouched_base(
    model: Any, padded: Callable[..., Any], start: str, rslora: bool
) -> None:
    from copy import deepcopy

    before, said = {n: p.clone() for n, p in model.named_parameters()}, logits(model)
    other = plain_peft(deepcopy(model), start, rslora=rslora)
    ours = Lora(rank=4, init_lora_weights=start, use_rslora=rslora).attach(model)
    for name, parameter in trainable(ours).items():
        assert torch.equal(parameter, dict(other.named_parameters())[name]), name
    own = {n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in ours.named_parameters()}
    assert all(torch.equal(own[name], before[name]) for name in before)
    with ours.disable_adapter():
        assert torch.equal(logits(ours), said)
    for tuned in (ours, other):
        batch = padded(*rows(12, 20))
        Forward(tuned)(tuned, batch).logprobs(batch.targets).sum().backward()
    theirs = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    for name, parameter in trainable(ours).items():
        error = (parameter.grad - theirs[name]).norm() / theirs[name].norm()
        assert error < 2e-5, (name, error)


def test_pissa_takes_the_largest_singular_parts(model: Any) -> None:
    one = layer(Lora(rank=4, init_lora_weights="pissa").attach(model), "down_proj")
    left, values, right = torch.linalg.svd(one.get_base_layer().weight.double())
    largest = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
    found = one.lora_B["default"].weight.double() @ one.lora_A["default"].weight.double() * one.scaling["default"]
    torch.testing.assert_close(found, largest, rtol=0, atol=1e-6)


@STARTS
@SCALES
def test_the_saved_difference(model: Any, tmp_path: Path, start: str, rslora: bool) -> None:
    """On the untouched base, by plain peft: equal to the last bit; merged: equal up to rounding."""
    from peft import PeftModel

    part = Lora(rank=4, init_lora_weights=start, use_rslora=rslora)
    model.name_or_path = "base"
    tuned = shake(part.attach(model), 0.02)
    part.save(tuned, tmp_path)
    said = logits(tuned)
    base = tuned.unload()
    loaded: Any = PeftModel.from_pretrained(base, str(tmp_path))
    assert loaded.peft_config["default"].r == 8 and torch.equal(logits(loaded), said)
    assert float((logits(loaded.merge_and_unload()) - said).abs().max()) < 1e-5


@STARTS
def test_the_live_model_can_be_merged_too(model: Any, start: str) -> None:
    tuned = shake(Lora(rank=4, init_lora_weights=start).attach(model), 0.02)
    said, base = logits(tuned), {n: p.clone() for n, p in tuned.named_parameters()}
    tuned.merge_adapter()
    assert float((logits(tuned) - said).abs().max()) < 1e-5
    tuned.unmerge_adapter()
    assert all(torch.allclose(p, base[n], atol=1e-6) for n, p in tuned.named_parameters())
    assert float((logits(tuned.merge_and_unload(safe_merge=True)) - said).abs().max()) < 1e-5


def test_going_on_with_another_rank(model: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    model.name_or_path = "base"
    part = Lora(rank=4)
    part.save(part.attach(model), tmp_path)
    loaded: Any = PeftModel.from_pretrained(model, str(tmp_path))
    with pytest.raises(ModelError, match="a lora adapter of rank 4; one that began as pissa of rank 4 is saved"):
        Lora(rank=4, init_lora_weights="pissa").attach(loaded)
    with pytest.raises(ModelError, match=r"with lora_alpha 4\.0; the config asks for lora_alpha 9\.0"):
        Lora(rank=2, alpha=9, init_lora_weights="pissa").attach(loaded)
    assert Lora(rank=2, init_lora_weights="pissa").attach(loaded).peft_config["default"].r == 2


def test_a_rank_that_a_weight_does_not_have(model: Any) -> None:
    with pytest.raises(ModelError, match=r"adapter\.rank: .*q_proj has 64 singular values only"):
        Lora(rank=80, init_lora_weights="pissa").attach(model)


# ---- EVA ------------------------------------------------------------------------------------------------------------


def calibration(batches: list[Any]) -> Callable[[Any], Any]:
    def calibrate(model: Any) -> Any:
        forward = Forward(model)
        while True:
            for batch in batches:
                forward(model, batch)
                yield

    return calibrate


def test_eva_finds_the_directions_in_which_inputs_vary(model: Any, padded: Callable[..., Any]) -> None:
    batches = [padded(*rows(40, 50, 60), packing=True)]
    seen: list[torch.Tensor] = []
    q_proj = model.model.layers[1].self_attn.q_proj
    with q_proj.register_forward_hook(lambda module, args, out: seen.append(args[0].flatten(0, 1))), torch.no_grad():
        Forward(model)(model, batches[0])
    inputs = seen[-1]
    apart = inputs - inputs.mean(0)
    most = (torch.linalg.svdvals(apart)[:4] ** 2).sum()
    before = logits(model)
    tuned = Lora(rank=4, init_lora_weights="eva", eva_rho=1.0).attach(model, Run(calibrate=calibration(batches)))
    assert torch.equal(logits(tuned), before)
    weight = dict(tuned.named_parameters())["base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"]
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), rtol=0, atol=1e-4)
    assert float(((apart @ weight.detach().T) ** 2).sum() / most) > 0.98
    assert all(float(p.abs().max()) == 0 for n, p in trainable(tuned).items() if "lora_B" in n)


def test_eva_shares_out_the_ranks(model: Any, padded: Callable[..., Any]) -> None:
    run = Run(calibrate=calibration([padded(*rows(40, 50, 60), packing=True)]))
    tuned = Lora(rank=4, init_lora_weights="eva").attach(model, run)
    ranks = [one.r["default"] for _, one in lora_init.layers(tuned)]
    assert sum(ranks) == 4 * 14 and len(set(ranks)) > 1 and max(ranks) <= 8
    assert {one.scaling["default"] for _, one in lora_init.layers(tuned)} == {2.0}


def test_eva_without_enough_rows(model: Any, padded: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="eva did not settle in 0 micro-batches"):
        Lora(init_lora_weights="eva").attach(model)
    with pytest.raises(ModelError, match="eva did not settle in 200 micro-batches: give it more rows"):
        Lora(init_lora_weights="eva").attach(model, Run(calibrate=calibration([padded(*rows(6))])))


def test_a_resumed_run_measures_nothing_again(
    run_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class StopAt(Observer):
        def on_step(self, progress: Progress) -> bool:
            return progress.state.step == 2

    for start in ("eva", "pissa"):
        config = run_config(adapter={"type": "lora", "rank": 4, "init_lora_weights": start}, data__held_out=0.0)
        with pytest.raises(Interrupted):
            luthier.Factory().fine_tune(config, observers=[StopAt()], restart=True)
        with monkeypatch.context() as patch:
            patch.setattr("peft.initialize_lora_eva_weights", lambda *_, **__: pytest.fail("measured again"))
            patch.setattr("torch.linalg.svd", lambda *_, **__: pytest.fail("decomposed again"))
            luthier.Factory().fine_tune(config)
        whole = config.model_copy(update={"output": config.output.model_copy(update={"dir": str(tmp_path / start)})})
        luthier.Factory().fine_tune(whole)
        for file in ("adapter_model.safetensors", "checkpoint-4/optimizer.safetensors"):
            assert (Path(config.output.dir) / file).read_bytes() == (tmp_path / start / file).read_bytes()


# ---- whole modules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["embed_tokens"], ["lm_head"], ["lm_head", "embed_tokens"]], ids=str)
def test_a_tied_head_is_not_forgotten(tiny: Path, tmp_path: Path, names: list[str]) -> None:
    base = ModelLoader().load(ModelConfig(path=str(tiny)))
    part = Lora(rank=2, modules_to_save=names)
    tuned = part.attach(base)
    assert tuned.get_input_embeddings().weight is tuned.get_output_embeddings().weight
    whole = [p for n, p in trainable(tuned).items() if "modules_to_save" in n]
    assert len(whole) == 1
    shake(tuned, 0.05)
    part.save(tuned, tmp_path)
    again: Any = part.attach(ModelLoader().load(ModelConfig(path=str(tmp_path))))
    assert torch.equal(logits(again), logits(tuned)) and sorted(trainable(again)) == sorted(trainable(tuned))
    with pytest.raises(ModelError, match=r"trains .*embed_tokens as a whole; write it into adapter\.modules_to_save"):
        Lora(rank=2).attach(ModelLoader().load(ModelConfig(path=str(tmp_path))))


def test_modules_that_are_not_there(model: Any) -> None:
    with pytest.raises(ModelError, match=r"modules_to_save: the model has, or trains, no module score"):
        Lora(rank=2, modules_to_save=["score"]).attach(model)


def test_all_that_differs_is_named(tiny: Path, tmp_path: Path) -> None:
    part = Lora(rank=2, target_modules=["q_proj"])
    part.save(part.attach(ModelLoader().load(ModelConfig(path=str(tiny)))), tmp_path)
    loaded = ModelLoader().load(ModelConfig(path=str(tmp_path)))
    asked = Lora(rank=4, dropout=0.5, target_modules=["q_proj", "v_proj"], use_dora=True)
    with pytest.raises(ModelError) as error:
        asked.attach(loaded)
    here = "r 2, lora_alpha 4.0, lora_dropout 0.0, target_modules ['q_proj'], use_dora False"
    there = "r 4, lora_alpha 8.0, lora_dropout 0.5, target_modules ['q_proj', 'v_proj'], use_dora True"
    assert str(error.value) == (
        f"the model carries a lora adapter with {here}; the config asks for {there}: "
        "write the same, or start from the base model"
    )


def test_eva_with_more_directions_than_there_are(model: Any) -> None:
    with pytest.raises(ModelError, match=r"adapter\.rank: 40 times eva_rho \(2\) is more than the \d+ inputs"):
        Lora(rank=40, init_lora_weights="eva").attach(model, Run(calibrate=lambda model: iter(())))

"""Each optimizer against the plain use of its library, as its own page shows it: the same losses, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luthier.adapters.full import Full
from luthier.adapters.lora import Lora
from luthier.errors import UserError
from luthier.plugins import load
from luthier.train.optim.base import Group, set_learning_rate
from luthier.train.optim.groups import parameter_groups
from luthier.train.optim.wrapped import evaluation_weights
from tests.conftest import build_model

RATE, DECAY, STEPS = 1e-2, 0.1, 5
Plain = Callable[[nn.Module], torch.optim.Optimizer]


def tiny() -> Any:
    return Full().attach(build_model(60))


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, *, ours: bool) -> list[float]:
    """Of some steps on random ids."""
    torch.manual_seed(1)
    found = []
    for _ in range(STEPS):
        ids = torch.randint(60, (2, 12))
        loss: Tensor = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if ours:
            set_learning_rate(optimizer, RATE)
        optimizer.step()
        model.zero_grad()
        found.append(float(loss.detach()))
    return found


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Matrices of the layers, the embedding, and norms, by names that this model is known to have."""
    named = dict(model.named_parameters())
    hidden = [p for n, p in named.items() if "_proj" in n]
    return hidden, [named["model.embed_tokens.weight"]], [p for n, p in named.items() if "norm" in n]


def groups(model: nn.Module, **hidden: Any) -> list[dict[str, Any]]:
    matrices, embedding, norms = split(model)
    decayed = {"weight_decay": DECAY}
    return [  # APOLLO draws by the number of a parameter, so the embedding comes first, as in the model
        {"params": embedding, **decayed},
        {"params": matrices, **decayed, **hidden},
        {"params": norms, "weight_decay": 0.0},
    ]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups(model), lr=RATE, fused=True)


def adamw_8bit(model: nn.Module) -> torch.optim.Optimizer:
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(groups(model), lr=RATE)  # type: ignore[no-any-return]


def adafactor(model: nn.Module) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    return Adafactor(groups(model), lr=RATE, scale_parameter=False, relative_step=False, warmup_init=False)  # type: ignore[no-any-return]


def lion(model: nn.Module) -> torch.optim.Optimizer:
    from lion_pytorch import Lion

    return Lion(groups(model), lr=RATE)  # type: ignore[no-any-return]


def galore(model: nn.Module) -> torch.optim.Optimizer:
    from galore_torch import GaLoreAdamW

    with warnings.catch_warnings(action="ignore"):
        return GaLoreAdamW(groups(model, rank=8, update_proj_gap=2, scale=0.25, proj_type="std"), lr=RATE)  # type: ignore[no-any-return]


def apollo(model: nn.Module) -> torch.optim.Optimizer:
    from apollo_torch import APOLLOAdamW

    keys = {"rank": 8, "proj": "random", "scale_type": "channel", "scale": 1, "update_proj_gap": 2, "proj_type": "std"}
    return APOLLOAdamW(groups(model, **keys), lr=RATE)  # type: ignore[no-any-return]


class Both(torch.optim.Optimizer):
    """Muon as torch documents it: one optimizer for the matrices, and AdamW for all else."""

    def __init__(self, model: nn.Module) -> None:
        embedding, matrices, norms = groups(model)
        self.muon = torch.optim.Muon([matrices], lr=RATE, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW([embedding, norms], lr=RATE, fused=True)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.muon.step()
        self.adamw.step()


def schedule_free(model: nn.Module) -> torch.optim.Optimizer:
    import schedulefree

    optimizer = schedulefree.AdamWScheduleFree(groups(model), lr=RATE)
    optimizer.train()
    return optimizer  # type: ignore[no-any-return]


def badam(model: nn.Module) -> torch.optim.Optimizer:
    from badam import BlockOptimizer

    base = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    with warnings.catch_warnings(action="ignore"):
        return BlockOptimizer(base, list(model.named_parameters()), switch_block_every=2, switch_mode="descending")  # type: ignore[no-any-return]


KINDS: dict[str, tuple[dict[str, Any], Plain]] = {
    "adamw": ({}, adamw),
    "adamw-8bit": ({}, adamw_8bit),
    "adafactor": ({}, adafactor),
    "lion": ({}, lion),
    "muon": ({}, Both),
    "schedule-free": ({}, schedule_free),
    "galore": ({"rank": 8, "update_proj_gap": 2}, galore),
    "apollo": ({"rank": 8, "update_proj_gap": 2}, apollo),
    "badam": ({"switch_block_every": 2}, badam),
}


def build(kind: str, model: nn.Module, decay: float = DECAY, **settings: Any) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = load("optimizer", kind)(**settings).build(
        parameter_groups(model, Full(), weight_decay=decay)
    )
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_use_of_its_library(kind: str) -> None:
    """Without decay for BAdam, which decays norms as all else; see below."""
    settings, plain = KINDS[kind]
    model, other = tiny(), tiny()
    ours = losses(model, build(kind, model, 0.0 if kind == "badam" else DECAY, **settings), ours=True)
    theirs = losses(other, plain(other), ours=False)
    assert ours == theirs and len(set(ours)) == STEPS
    for (name, mine), (_, other_one) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(mine, other_one), name


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_not_decayed_and_scales_reach_each_parameter(kind: str) -> None:
    """Without gradients to speak of, a step changes what is decayed, by its own rate; others hardly."""
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    matrices, norms = (
        ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"),
        "layers.1.input_layernorm",
    )
    found = dict(model.named_parameters())
    split_up = [
        Group({matrices[0]: found[matrices[0]]}, DECAY, 1.0, hidden=True),
        Group({matrices[1]: found[matrices[1]]}, DECAY, 1.0 if kind == "badam" else 0.5, hidden=True),
        Group({name: p for name, p in found.items() if norms in name}, 0.0),
    ]
    optimizer: torch.optim.Optimizer = load("optimizer", kind)(**KINDS[kind][0]).build(split_up)
    set_learning_rate(optimizer, RATE)
    for parameter in found.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    scales = (1.0, 1.0 if kind == "badam" else 0.5)
    for name, scale in zip(matrices, scales, strict=True):
        torch.testing.assert_close(found[name], before[name] * (1 - RATE * DECAY * scale), rtol=1e-6, atol=1e-7)
    for name, parameter in found.items():
        if norms in name:
            assert torch.equal(parameter, before[name]), name


def test_groups_keep_their_scale() -> None:
    """Optimizers of libraries might drop keys that are not theirs, and the rate of a layer with them."""
    for kind, (settings, _) in KINDS.items():
        model = tiny()
        groups = parameter_groups(model, Full(), layer_decay=0.5)
        optimizer = load("optimizer", kind)(**settings).build(groups)
        set_learning_rate(optimizer, 1.0)
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == ({0.5} if kind == "badam" else {1.0, 0.5, 0.25, 0.125}), kind


# ---- schedule-free: two sets of weights --------------------------------------------------------------------------


def test_the_average_is_measured_and_training_goes_on_untouched() -> None:
    model, other = tiny(), tiny()
    optimizer, plain = build("schedule-free", model), schedule_free(other)
    assert losses(model, optimizer, ours=True) == losses(other, plain, ours=False)
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain.eval()  # type: ignore[attr-defined]
    for _ in range(3):
        with evaluation_weights(optimizer):
            for (name, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
                assert torch.equal(mine, theirs) and not torch.equal(mine, trained[name])
        assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())
    assert not any("y" in entries for entries in optimizer.state.values())


def test_the_weights_of_training_come_back_after_an_error() -> None:
    model = tiny()
    optimizer = build("schedule-free", model)
    losses(model, optimizer, ours=True)
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="half-way"), evaluation_weights(optimizer):
        raise RuntimeError("half-way")
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())
    losses(model, optimizer, ours=True)


def test_before_the_first_step_both_are_the_same() -> None:
    model = tiny()
    optimizer = build("schedule-free", model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with evaluation_weights(optimizer):
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    losses(model, optimizer, ours=True)


# ---- BAdam: one block at a time ----------------------------------------------------------------------------------


def test_one_layer_after_the_other() -> None:
    model = tiny()
    optimizer = build("badam", model, switch_block_every=3, switch_mode="ascending", include_embedding_and_head=True)
    seen = []
    for _ in range(9):
        seen.append(
            {
                n.split("layers.")[-1][0] if "layers." in n else "rest"
                for n, p in model.named_parameters()
                if p.requires_grad
            }
        )
        ids = torch.randint(60, (2, 12))
        model(input_ids=ids, labels=ids).loss.backward()
        set_learning_rate(optimizer, RATE)
        optimizer.step()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    # the library counts from 1, so the first block has one step less
    assert seen == [{"0"}] * 2 + [{"1"}] * 3 + [{"rest"}] * 3 + [{"0"}]


def test_badam_says_nothing(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    model = tiny()
    losses(model, build("badam", model, switch_block_every=1, switch_mode="random"), ours=True)
    assert capfd.readouterr() == ("", "") and not list(recwarn)


# ---- what cannot be built ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("muon", "muon is for matrices, and this adapter trains none; write adamw"),
        ("galore", "galore keeps its state of .* small, and this adapter trains none; write adamw"),
        ("apollo", "apollo keeps its state of .* small, and this adapter trains none; write adamw"),
        ("badam", "badam: no layer of this model is trained; write optimizer: adamw"),
    ],
)
def test_nothing_to_work_on(kind: str, said: str) -> None:
    weight = nn.Parameter(torch.zeros(3))
    with pytest.raises(UserError, match=rf"train\.optimizer: {said}"):
        load("optimizer", kind)().build([Group({"norm.weight": weight}, 0.0)])


def test_lora_has_matrices_for_muon() -> None:
    model = Lora(rank=2).attach(build_model(60))
    optimizer = load("optimizer", "muon")().build(parameter_groups(model, Lora(rank=2)))
    assert [len(part.param_groups) for part in optimizer.parts] == [1]

"""The same batch and weights through TRL's own trainers: loss within 1e-5, gradients within 1e-4.

Where TRL computes something else, the difference is named beside the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from luthier.data.conversation import Labelled, Preference
from luthier.data.pack import Example, Layout
from luthier.models.load import _use_segment_attention
from luthier.objectives.base import Objective
from luthier.objectives.cpo import Cpo
from luthier.objectives.distill import Distill
from luthier.objectives.dpo import Dpo
from luthier.objectives.kto import Kto
from luthier.objectives.orpo import Orpo
from luthier.objectives.reward import Reward
from luthier.objectives.sft import Sft
from luthier.objectives.simpo import Simpo
from tests.conftest import build_model
from tests.objectives.conftest import examples, loss_of, require_same, slopes, tiny_model

pytestmark = pytest.mark.slow

PAIRS = [{"prompt": "What?", "chosen": " This.", "rejected": " That."}]
PACKED = Layout(packing=True, tokens=10_000)


@pytest.fixture
def trainer(tokenizer: Any, tmp_path: Path) -> Callable[..., Any]:
    """One of TRL's trainers around a model, with rows that nobody looks at."""

    def make(kind: Any, arguments: Any, model: Any, rows: list[dict[str, Any]], **settings: Any) -> Any:
        from datasets import Dataset

        given = arguments(
            output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, fp16=False, disable_tqdm=True,
            gradient_checkpointing=False, **settings,
        )  # fmt: skip
        return kind(model=model, args=given, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)

    return make


def same(loss: Any, theirs: Any, model: Any) -> None:
    """Both losses and the gradients that they leave."""
    loss.backward()
    mine = slopes(model)
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5, rel=1e-5)
    require_same(mine, slopes(model), 1e-4)


def parts(example: Example) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer ids of each sequence."""
    cuts = [int(tokens.weights.nonzero()[0][0]) for tokens in example.sequences]
    return [(t.ids[:c].tolist(), t.ids[c:].tolist()) for t, c in zip(example.sequences, cuts, strict=True)]


def reference_of(rows: list[Example]) -> list[list[float]]:
    """The made-up reference, summed over each sequence."""
    found = []
    for row in rows:
        ends, start = [], 0
        for tokens in row.sequences:
            ends.append(float(row.columns["reference"][start : start + tokens.supervised].sum()))
            start += tokens.supervised
        found.append(ends)
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sft(tokenizer: Any, trainer: Callable[..., Any], smoothing: float) -> None:
    from trl import SFTConfig, SFTTrainer

    model = tiny_model(tokenizer).float().train()
    rows = examples(tokenizer, Sft())
    ours = loss_of(Sft(label_smoothing=smoothing), model, rows, PACKED)
    theirs = trainer(
        SFTTrainer, SFTConfig, model, [{"prompt": "a", "completion": " b"}], label_smoothing_factor=smoothing
    )
    width = max(len(row.sequences[0]) for row in rows)
    ids, labels, mask = (torch.full((len(rows), width), blank) for blank in (0, -100, 0))
    for i, row in enumerate(rows):
        tokens = row.sequences[0]
        ids[i, : len(tokens)], mask[i, : len(tokens)] = torch.from_numpy(tokens.ids).long(), 1
        asked = torch.from_numpy(tokens.weights > 0)
        labels[i, : len(tokens)][asked] = ids[i, : len(tokens)][asked]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if smoothing:  # SFTTrainer's own loss leaves it out; the smoother of transformers is what it is set for
        from transformers.trainer_pt_utils import LabelSmoother

        logits = model(input_ids=ids, attention_mask=mask).logits
        same(ours, LabelSmoother(epsilon=smoothing)({"logits": logits}, labels, shift_labels=True), model)
    else:
        same(ours, theirs.compute_loss(model, batch), model)


@pytest.mark.parametrize(
    "objective",
    [Dpo(), Dpo(beta=0.5, loss_type="hinge"), Dpo(loss_type="ipo"), Dpo(loss_type="robust", label_smoothing=0.2)],
    ids=lambda o: o.loss_type,
)
def test_dpo(tokenizer: Any, trainer: Callable[..., Any], objective: Dpo) -> None:
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    model = tiny_model(tokenizer).float().train()
    theirs = trainer(
        DPOTrainer, DPOConfig, model, PAIRS, beta=objective.beta, loss_type=[objective.loss_type],
        label_smoothing=objective.label_smoothing, precompute_ref_log_probs=True,
    )  # fmt: skip
    rows = examples(tokenizer, objective)
    given = [
        {"prompt_ids": c[0], "chosen_ids": c[1], "rejected_ids": r[1], "ref_chosen_logps": a, "ref_rejected_logps": b}
        for (c, r), (a, b) in zip(map(parts, rows), reference_of(rows), strict=True)
    ]
    batch = DataCollatorForPreference(pad_token_id=0)(given)
    same(loss_of(objective, model, rows, PACKED), theirs.compute_loss(model, batch), model)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_kto(tokenizer: Any, trainer: Callable[..., Any], beta: float) -> None:
    from trl import KTOConfig, KTOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    objective = Kto(beta=beta, desirable_weight=1.2, undesirable_weight=0.8)
    model = tiny_model(tokenizer).float().train()
    theirs = trainer(
        KTOTrainer, KTOConfig, model, [{"prompt": "a", "completion": " b", "label": i % 2 == 0} for i in range(4)],
        beta=beta, desirable_weight=1.2, undesirable_weight=0.8, precompute_ref_log_probs=True,
        per_device_train_batch_size=2,
    )  # fmt: skip
    rows = examples(tokenizer, objective)
    beside = [cast(Example, row.companion) for row in rows]
    given = [
        {"prompt_ids": own[0], "completion_ids": own[1], "KL_completion_ids": strange[1],
         "ref_logps": a, "ref_KL_logps": b, "label": cast(Labelled, row.content).wanted}
        for row, (own,), (strange,), (a,), (b,) in zip(
            rows, map(parts, rows), map(parts, beside), reference_of(rows), reference_of(beside), strict=True)
    ]  # fmt: skip
    batch = DataCollatorForUnpairedPreference(pad_token_id=0)(given)
    theirs_loss = theirs._compute_loss(model, batch, return_outputs=False)  # a mean, as ours
    same(loss_of(objective, model, rows, PACKED), theirs_loss, model)


def test_reward(tokenizer: Any, trainer: Callable[..., Any]) -> None:
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    torch.manual_seed(0)
    config = build_model(len(tokenizer)).config
    config.num_labels = 1
    model = LlamaForSequenceClassification(config).train()
    _use_segment_attention(model)
    objective = Reward(center_weight=0.1)
    rows = [
        replace(row, content=replace(cast(Preference, row.content), margin=i / 4))
        for i, row in enumerate(examples(tokenizer, objective))
    ]
    theirs = trainer(RewardTrainer, RewardConfig, model, PAIRS, center_rewards_coefficient=0.1)
    given = [
        {"chosen_ids": c.ids.tolist(), "rejected_ids": r.ids.tolist(), "margin": cast(Preference, row.content).margin}
        for row in rows
        for c, r in [row.sequences]
    ]
    batch = DataCollatorForPreference(pad_token_id=0)(given)
    same(loss_of(objective, model, rows, PACKED), theirs.compute_loss(model, batch), model)


def means(model: Any, rows: list[Example], *, mean: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of better and worse answers, in float32 and unpacked, as TRL's experimental trainers take them."""
    found = []
    for tokens in (t for row in rows for t in row.sequences):
        ids, asked = torch.from_numpy(tokens.ids).long(), tokens.weights.nonzero()[0]
        logp = model(ids[None]).logits[0].log_softmax(-1)[asked - 1].gather(-1, ids[asked][:, None])
        found.append(logp.mean() if mean else logp.sum())
    return torch.stack(found[0::2]), torch.stack(found[1::2])


def stand_in(**values: Any) -> Any:
    """A `self` for a loss function of a trainer that needs no more."""
    return SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), alpha=0.0, label_smoothing=0.0, **values)


def test_orpo(tokenizer: Any) -> None:
    """TRL adds the loss of the whole text, prompt included; the paper's equation 6, and ours, that of the answer."""
    from trl.experimental.orpo import ORPOTrainer

    objective, model = Orpo(beta=0.2), tiny_model(tokenizer).float().train()
    rows = examples(tokenizer, objective)
    better, worse = means(model, rows, mean=True)
    compared = ORPOTrainer.odds_ratio_loss(stand_in(beta=0.2), better, worse)[0]
    same(loss_of(objective, model, rows, PACKED), -compared.mean() - better.mean(), model)


@pytest.mark.parametrize(
    "objective", [Cpo(beta=0.3, label_smoothing=0.1), Simpo(beta=2.5, gamma=0.5)], ids=lambda o: o.type
)
def test_cpo_and_simpo(tokenizer: Any, objective: Any) -> None:
    """TRL averages CPO's own loss over the tokens of a micro-batch, we over answers: the same for one pair."""
    from trl.experimental.cpo import CPOTrainer

    model = tiny_model(tokenizer).float().train()
    rows = examples(tokenizer, objective)
    simple = isinstance(objective, Simpo)
    better, worse = means(model, rows, mean=simple)
    own = 0.0 if simple else means(model, rows, mean=True)[0].mean()
    me = stand_in(
        beta=objective.beta, loss_type="simpo" if simple else "sigmoid",
        simpo_gamma=objective.gamma if simple else 0.0,
    )  # fmt: skip
    me.label_smoothing = 0.0 if simple else objective.label_smoothing
    same(loss_of(objective, model, rows, PACKED), CPOTrainer.cpo_loss(me, better, worse)[0].mean() - own, model)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_distill(tokenizer: Any, direction: Any) -> None:
    """TRL's generalised divergence at its two ends; it leaves out the factor T squared."""
    from trl.experimental.gkd import GKDTrainer

    from luthier.models.reference import frozen

    objective: Objective = Distill(teacher="-", direction=direction, temperature=1.5)
    model, teacher = tiny_model(tokenizer).float().train(), build_model(len(tokenizer), seed=1)
    rows = examples(tokenizer, objective)
    theirs, count = torch.zeros(()), 0
    for row in rows:
        tokens = row.sequences[0]
        ids, asked = torch.from_numpy(tokens.ids).long(), tokens.weights.nonzero()[0]
        logits = [m(ids[None]).logits[:, asked - 1] for m in (model, teacher)]
        end = 0.0 if direction == "forward" else 1.0
        theirs = theirs + GKDTrainer.generalized_jsd_loss(
            logits[0], logits[1].detach(), beta=end, temperature=1.5, reduction="sum"
        )
        count += len(asked)
    same(loss_of(objective, model, rows, PACKED, teacher=frozen(teacher, "fp32")), 1.5**2 * theirs / count, model)

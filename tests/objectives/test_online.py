"""Online objectives: against their definitions in float64, against TRL, and through whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import luthier
from luthier.data.conversation import Conversation, Message, Origin, Task
from luthier.data.pack import Example, Layout
from luthier.data.render import Renderer, Tokens
from luthier.errors import DataError, Interrupted
from luthier.models.output import add_value_head
from luthier.objectives.grpo import Grpo
from luthier.objectives.online import Online
from luthier.objectives.ppo import Ppo
from luthier.objectives.rloo import Rloo
from tests.invariance.test_resume import StopAt, tensors
from tests.objectives.conftest import Seen, loss_of, prompt_rows, require_same, said, slopes, tiny_model

Make = Callable[..., Any]
ANY: list[Any] = ["exact_match"]
PACKED = Layout(packing=True, tokens=10_000)


def groups(tokenizer: Any, objective: Online, count: int = 3, samples: int = 4) -> list[Example]:
    """Answers of unequal lengths to a few prompts, with made-up columns."""
    generator = np.random.default_rng(3)
    renderer, found = Renderer(tokenizer), []
    for i in range(count):
        task = Task(Conversation((Message(role="user", content=f"What is {i}?" + " Go on." * i),)))
        (prompt,) = objective.sequences(task, renderer)
        sequences = []
        for _ in range(samples):
            answer = generator.integers(3, 200, generator.integers(1, 9))
            weights = np.concatenate([prompt.weights, np.ones(len(answer), dtype=np.float32)])
            sequences.append(Tokens(np.concatenate([prompt.ids, answer.astype(np.int32)]), weights))
        lengths = [t.supervised for t in sequences]
        gains = generator.normal(size=samples).astype(np.float32)
        total = sum(lengths)
        columns = {
            "advantage": np.repeat(gains, lengths),
            "reward": np.repeat(gains, lengths),
            "old": generator.normal(-6, 0.3, total).astype(np.float32),
            "reference": generator.normal(-6, 0.3, total).astype(np.float32),
            "value": generator.normal(0, 1, total).astype(np.float32),
        }
        found.append(objective.judged(Example(Origin("made", i), "", tuple(sequences), task, columns)))
    return found


def per_answer(model: Any, rows: list[Example], temperature: float) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Of each answer: log p of its tokens at a temperature, and its columns."""
    found = []
    for row in rows:
        ends = np.cumsum([t.supervised for t in row.sequences])
        for spoken, tokens, end in zip(said(model, row), row.sequences, ends, strict=True):
            part = slice(int(end) - tokens.supervised, int(end))
            columns = {name: torch.from_numpy(column[part]).double() for name, column in row.columns.items()}
            logp = (spoken.everything / temperature).log_softmax(-1)
            labels = torch.from_numpy(tokens.ids[tokens.weights > 0]).long()
            found.append((logp.gather(-1, labels[:, None])[:, 0], columns))
    return found


def clipped(o: Online, ratio: Tensor, advantage: Tensor) -> Tensor:
    high = 1 + (o.epsilon_high or o.epsilon)
    return -torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - o.epsilon, high) * advantage)


def k3(logp: Tensor, columns: dict[str, Tensor]) -> Tensor:
    apart = columns["reference"] - logp
    return torch.exp(logp - columns["old"]) * (torch.exp(apart) - apart - 1)


def grpo(o: Grpo, answers: list[tuple[Tensor, dict[str, Tensor]]]) -> Tensor:
    losses = [clipped(o, (p - c["old"]).exp(), c["advantage"]) + o.beta * k3(p, c) for p, c in answers]
    if o.loss_type == "dapo":
        return torch.cat(losses).mean()
    if o.loss_type == "grpo":
        return torch.stack([loss.mean() for loss in losses]).mean()
    return torch.stack([loss.sum() / o.max_new_tokens for loss in losses]).mean()


def rloo(o: Rloo, answers: list[tuple[Tensor, dict[str, Tensor]]]) -> Tensor:
    losses = [clipped(o, (p - c["old"]).sum().exp(), c["advantage"][0]) + o.beta * k3(p, c).sum() for p, c in answers]
    return torch.stack(losses).mean()


CASES = [
    (Grpo(rewards=ANY, beta=0.1, temperature=0.7), grpo),
    (Grpo(rewards=ANY, beta=0.1, loss_type="grpo", epsilon_high=0.3), grpo),
    (Grpo(rewards=ANY, loss_type="dr_grpo", max_new_tokens=32), grpo),
    (Rloo(rewards=ANY, beta=0.2, epsilon=0.4), rloo),
]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("objective", "definition"), CASES, ids=lambda case: getattr(case, "__name__", str(case)[:40]))
def test_equals_its_definition(tokenizer: Any, objective: Any, definition: Any, *, packing: bool) -> None:
    model = tiny_model(tokenizer)
    rows = groups(tokenizer, objective)
    expected = definition(objective, per_answer(model, rows, objective.temperature))
    expected.backward()
    right = slopes(model)
    loss = loss_of(objective, model, rows, Layout(packing=packing, tokens=10_000))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    require_same(slopes(model), right, 1e-6)


def test_ppo_equals_its_definition(tokenizer: Any) -> None:
    """Advantages as a sum over all later surprises, values beside the policy from the same hidden states."""
    objective = Ppo(rewards=ANY, beta=0.3, discount=0.9, trace=0.8, value_weight=0.7)
    model = tiny_model(tokenizer)
    add_value_head(model)
    torch.nn.init.normal_(model.value_head.weight, std=0.3)
    model.value_head.double()
    rows = groups(tokenizer, objective)
    losses = []
    hidden = [
        model.model(torch.from_numpy(t.ids).long()[None])[0][0][t.weights.nonzero()[0] - 1]
        for row in rows
        for t in row.sequences
    ]
    for (logp, c), states in zip(per_answer(model, rows, 1.0), hidden, strict=True):
        rewards = -0.3 * (c["old"] - c["reference"])
        rewards[-1] += c["reward"][-1]
        nexts = torch.cat([c["value"][1:], torch.zeros(1)])
        surprise = rewards + 0.9 * nexts - c["value"]
        gains = torch.stack([sum(0.72**k * surprise[t + k] for k in range(len(logp) - t)) for t in range(len(logp))])  # type: ignore[misc, arg-type]
        returns = gains + c["value"]
        values = model.value_head(states)[:, 0]
        near = c["value"] + torch.clamp(values - c["value"], -0.2, 0.2)
        error = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
        losses.append(clipped(objective, (logp - c["old"]).exp(), gains) + 0.7 * error)
    expected = torch.cat(losses).mean()
    expected.backward()
    right = slopes(model)
    loss = loss_of(objective, model, rows, PACKED)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)  # the columns are kept in float32
    require_same(slopes(model), right, 1e-5)


def test_advantages() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    scaled = Grpo(rewards=ANY).advantages(rewards)
    assert scaled[0].tolist() == pytest.approx([0.0, -0.7071, -0.7071, 1.4142], abs=1e-3)
    assert Grpo(rewards=ANY, scale_rewards=False).advantages(rewards)[0].tolist() == [0.0, -1.0, -1.0, 2.0]
    assert Rloo(rewards=ANY).advantages(rewards)[0].tolist() == pytest.approx([0.0, -4 / 3, -4 / 3, 8 / 3])
    assert scaled[1].tolist() == [0.0] * 4


# ---- TRL ---------------------------------------------------------------------------------------------------------


def trl_batch(rows: list[Example]) -> dict[str, Tensor]:
    """Left-padded prompts and right-padded answers, as its trainers hold them."""
    parts = [(t.ids[t.weights == 0], t.ids[t.weights > 0], row) for row in rows for t in row.sequences]
    left, right = max(len(p) for p, _, _ in parts), max(len(a) for _, a, _ in parts)
    batch = {name: torch.zeros(len(parts), left, dtype=torch.int64) for name in ("prompt_ids", "prompt_mask")}
    batch |= {name: torch.zeros(len(parts), right, dtype=torch.int64) for name in ("completion_ids", "completion_mask")}
    tables = {name: torch.zeros(len(parts), right) for name in ("old", "reference", "advantage")}
    columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in tables}
    start = 0
    for i, (prompt, answer, _) in enumerate(parts):
        batch["prompt_ids"][i, left - len(prompt) :] = torch.from_numpy(prompt).long()
        batch["prompt_mask"][i, left - len(prompt) :] = 1
        batch["completion_ids"][i, : len(answer)] = torch.from_numpy(answer).long()
        batch["completion_mask"][i, : len(answer)] = 1
        for name, table in tables.items():
            table[i, : len(answer)] = torch.from_numpy(columns[name][start : start + len(answer)])
        start += len(answer)
    return batch | {
        "advantages": tables["advantage"][:, 0],
        "old_per_token_logps": tables["old"],
        "ref_per_token_logps": tables["reference"],
        "old_logps": tables["old"].sum(1),
        "num_items_in_batch": batch["completion_mask"].sum(),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        Grpo(rewards=ANY, beta=0.1, temperature=0.7),
        Grpo(rewards=ANY, beta=0.1, loss_type="grpo", epsilon_high=0.3),
        Grpo(rewards=ANY, loss_type="dr_grpo", max_new_tokens=32),
        Rloo(rewards=ANY, epsilon=0.4),
    ],
    ids=lambda o: f"{o.type}-{getattr(o, 'loss_type', '')}",
)
def test_as_trl(tokenizer: Any, tiny: Path, tmp_path: Path, objective: Any) -> None:
    """RLOO there takes the reference into the reward, so that it is compared without one."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    own = isinstance(objective, Grpo)
    settings = {"loss_type": objective.loss_type} if isinstance(objective, Grpo) else {}
    arguments = (GRPOConfig if own else RLOOConfig)(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=12, num_generations=4, max_completion_length=objective.max_new_tokens,
        beta=objective.beta, epsilon=objective.epsilon, temperature=objective.temperature, **settings,
        **({"epsilon_high": objective.epsilon_high} if objective.epsilon_high else {}),
    )  # fmt: skip
    model = tiny_model(tokenizer).float()
    model.config._name_or_path = str(tiny)  # where it would look for a reference
    theirs = (GRPOTrainer if own else RLOOTrainer)(
        model=model, args=arguments, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 12), processing_class=tokenizer,
    )  # fmt: skip
    theirs.current_gradient_accumulation_steps = 1
    rows = groups(tokenizer, objective)
    loss = loss_of(objective, model, rows, PACKED)
    loss.backward()
    mine = slopes(model)
    right = theirs._compute_loss(model.train(), trl_batch(rows))
    right.backward()
    assert loss.item() == pytest.approx(right.item(), abs=1e-5, rel=1e-5)
    require_same(mine, slopes(model), 1e-4)


# ---- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grpo", "rloo", "ppo"])
def test_the_reward_rises(online: Make, kind: str) -> None:
    watch = Seen()
    config = online(kind, train__max_steps=80 if kind == "ppo" else 40, adapter="full", train__learning_rate=2e-3)
    _, metrics = luthier.Factory().fine_tune(config, observers=[watch])
    rewards = [step.metrics["reward"] for step in watch.steps if "reward" in step.metrics]
    assert np.mean(rewards[:3]) < 0.2
    assert np.mean(rewards[-3:]) > 0.5
    assert metrics["reward"] == -metrics["loss"] > 0.5
    lines = (Path(config.output.dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert {"reward", "reward_std", "answer_tokens", "answers_cut"} <= set(json.loads(lines[0]))


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize(("kind", "stop"), [("grpo", 3), ("ppo", 4), ("ppo", 6)])
def test_resumed_equals_uninterrupted(online: Make, tmp_path: Path, kind: str, stop: int, adapter: str) -> None:
    """In the middle of several updates from the same answers, too."""
    settings = {"beta": 0.1, "updates": 4 if kind == "ppo" else 1}
    common = {"train__max_steps": 9, "train__learning_rate": 1e-3, "adapter": adapter}
    luthier.Factory().fine_tune(online(kind, settings=settings, output=str(tmp_path / "whole"), **common))
    config = online(kind, settings=settings, output=str(tmp_path / "parts"), **common)
    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(config, observers=[StopAt(stop)])
    luthier.Factory().fine_tune(config)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    shared = whole.keys() & parts.keys()
    assert any(name.startswith("checkpoint-9") for name in shared)
    assert {name: parts[name] for name in shared} == {name: whole[name] for name in shared}


def test_how_a_step_is_cut_never_matters(online: Make, tmp_path: Path) -> None:
    layouts = {"one": {"train__micro_batch_tokens": 100_000}, "many": {"train__micro_batch_tokens": 60},
               "padded": {"data__packing": False, "train__micro_batch_size": 3}}  # fmt: skip
    found = {}
    for name, layout in layouts.items():
        watch = Seen()
        config = online("grpo", settings={"beta": 0.1}, output=str(tmp_path / name), train__max_steps=3, **layout)
        luthier.Factory().fine_tune(config, observers=[watch])
        found[name] = [(step.loss, step.grad_norm) for step in watch.steps]
    for name in ("many", "padded"):
        for mine, right in zip(found[name], found["one"], strict=True):
            assert mine == pytest.approx(right, rel=1e-4, abs=1e-7)


def test_a_conversation_asks_with_its_last_answer_as_the_right_one(online: Make) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": str(i)}]}
            for i in range(8)]  # fmt: skip
    luthier.Factory().fine_tune(online("grpo", rows, settings={"rewards": ["exact_match"]}, train__max_steps=1))


def test_rows_that_ask_nothing_are_refused(run_config: Make) -> None:
    from tests.objectives.conftest import pair_rows

    objective = {"type": "grpo", "rewards": ["exact_match"]}
    with pytest.raises(DataError, match="grpo learns from prompts and conversations; this row holds two answers"):
        luthier.Factory().fine_tune(run_config(pair_rows(8), objective=objective))
    with pytest.raises(DataError, match="sft learns conversations; this row only asks: use objective: grpo, rloo"):
        luthier.Factory().fine_tune(run_config(prompt_rows(8)))


def test_a_long_prompt_is_never_cut(run_config: Make) -> None:
    rows = prompt_rows(8)
    rows[2]["prompt"] = "long " * 300
    objective = {"type": "grpo", "rewards": ["exact_match"]}
    ready = luthier.Factory().prepare(run_config(rows, objective=objective, data__over_length="truncate"))
    assert [(e.line, e.reason) for e in ready.data.ledger.entries if e.outcome == "dropped"] == [(3, "over-length")]
    assert all(example.supervised == 0 for example in ready.data.train)

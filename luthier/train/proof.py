"""What needs the loaded model: before the first step, what is computed is held against what is meant.

Everything is asked twice, the second time in a way that shares no code with the first: plain transformers on one
sequence alone, by the definition. It takes a few short passes, and leaves weights and gradients as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.adapters.base import trainable
from luthier.data.pack import Batch, Example, Layout, lay_out
from luthier.data.processor import Prepared
from luthier.data.render import Tokens
from luthier.data.store import extreme, longest_of
from luthier.distributed.strategy import whole
from luthier.models.load import packs
from luthier.models.output import Forward, Output, autocast, has_virtual_tokens
from luthier.system.hardware import MemoryLimit, free_memory, is_out_of_memory
from luthier.train.check import Finding, looked_at, named
from luthier.train.state import random_state

ROWS = 2
"""Rows that are asked about, the shortest."""
WINDOW = 64
"""Tokens on both sides of the first supervised one that are asked about, so that long rows cost no more."""


def check_model(
    model: Any, data: Prepared, layout: Layout, *, virtual_tokens: int = 0, answer_tokens: int = 0
) -> list[Finding]:
    """Of a model without a new adapter: sizes, its log-probabilities, and that packed rows do not see each other.

    `virtual_tokens` is how many positions the adapter takes in front of every row, `answer_tokens` how many an answer
    may take behind it.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = None if places is None else places - virtual_tokens - answer_tokens
    strange, long = [], []
    for example in looked_at(data):
        largest = max(int(t.ids.max()) for t in example.sequences)
        strange += [f"{example.origin}: token id {largest}"] if largest >= rows else []
    for side in (data.train, data.held_out):
        over = ((place, length) for place, length in enumerate(longest_of(side)) if room is not None and length > room)
        long += [f"{side[place].origin}: {length} tokens" for place, length in over]
    findings = []
    if strange:
        message = f"the model embeds {rows} token ids, the data holds others; tokenizer and model do not match: "
        findings.append(Finding("error", "vocabulary", message + named(strange)))
    if long:
        takes = (("the adapter", virtual_tokens), ("an answer (objective.max_new_tokens)", answer_tokens))
        taken = "".join(f", of which {what} takes {count}" for what, count in takes if count)
        message = (
            f"the model knows {places} positions{taken}, and some rows have more; lower data.max_length: {named(long)}"
        )
        findings.append(Finding("error", "positions", message))
    if findings:
        return findings
    if layout.packing and not packs(model):
        message = "this model's layers cannot be cut into segments; set data.packing=false"
        return [Finding("error", "packing", message)]
    forward = Forward(model)
    findings += _packing(model, forward, data.train, layout) if layout.packing else []
    return findings or list(_definition(model, forward, data.train, layout))


def check_training(model: Any, forward: Forward, examples: Sequence[Example], layout: Layout) -> list[Finding]:
    """Of the model as it will be trained, before its first step; random numbers are drawn.

    It is whole, or cut so that it answers as a whole one.

    Its trained weights get gradients, those of the definition; evaluation gives the same twice; the reference of the
    rows is the model that training starts from. Where not even a few tokens fit into memory, nothing is said: the loop
    explains that.
    """
    findings: list[Finding] = []
    try:
        for check in (_reached, _repeatable, _slopes, _reference):
            if not any(finding.level == "error" for finding in findings):  # the first is the cause of the others
                findings += check(model, forward, examples, layout)
    except Exception as error:
        if not is_out_of_memory(error) or isinstance(error, MemoryLimit):
            raise
    finally:
        model.eval()
        model.zero_grad(set_to_none=True)
        free_memory(next(model.parameters()).device)
    return findings


# ---- what the model says -----------------------------------------------------------------------------------------


def _packing(model: Any, forward: Forward, examples: Sequence[Example], layout: Layout) -> Iterable[Finding]:
    """Put a short row beside itself, and beside other tokens: its log-probabilities must be the same.

    The neighbours are of one length, so that the arithmetic is the same too, in whatever precision.
    """
    row = min(extreme(examples, longest=False), key=lambda e: e.tokens)
    rows = model.get_input_embeddings().weight.shape[0]
    others = tuple(Tokens((t.ids + 1) % rows, t.weights) for t in row.sequences)
    results = []
    with torch.no_grad():
        for neighbour in (row, replace(row, sequences=others)):
            batch = lay_out([neighbour, row], layout).to(_device(model))
            of_the_row = batch.targets.segment >= len(row.sequences)
            results.append(_said(forward(model, batch), batch)[of_the_row])
    tolerance = max(1e-4, 8 * torch.finfo(next(model.parameters()).dtype).eps)  # experts may be multiplied in groups
    if not torch.allclose(results[0], results[1], rtol=0, atol=tolerance, equal_nan=True):
        message = "packed rows change each other's log-probabilities in this model; set data.packing=false"
        return [Finding("error", "packing", message)]
    return []


def _definition(model: Any, forward: Forward, examples: Sequence[Example], layout: Layout) -> Iterable[Finding]:
    """What is learnt of short rows, as the run lays them out, against plain transformers on each sequence alone."""
    rows = _rows(examples)
    batch = lay_out(rows, layout).to(_device(model))
    with torch.no_grad():
        ours = _said(forward(model, batch), batch) * batch.targets.weight
        theirs = _by_definition(model, forward, rows)
    where = ", ".join(str(row.origin) for row in rows)
    if len(ours) != len(theirs):
        message = f"{len(ours)} tokens of {where} would be learnt, by their mask it must be {len(theirs)}"
        yield Finding("error", "definition", f"{message}; labels are lost between the rows and the model")
    elif (apart := float((ours - theirs).abs().mean())) > _tolerance(model, forward):
        message = f"log-probabilities of {where} are {apart:.3g} off what plain transformers says of each row alone"
        yield Finding("error", "definition", f"{message}; labels, positions or the output head are not where they must")


def _repeatable(model: Any, forward: Forward, examples: Sequence[Example], layout: Layout) -> Iterable[Finding]:
    """Evaluation draws nothing at random, also where it does not show yet: behind an adapter that starts at zero."""
    batch = lay_out(_rows(examples), layout).to(_device(model))
    model.eval()
    drawn = random_state(_device(model))
    with torch.no_grad():
        one, other = (_said(forward(model, batch), batch) for _ in range(2))
    apart = float((one - other).abs().mean())
    if apart > _tolerance(model, forward) / 10 or not torch.equal(random_state(_device(model)), drawn):
        message = f"a pass in evaluation draws random numbers (asked twice, it differs by {apart:.3g})"
        yield Finding(
            "error", "evaluation", f"{message}: dropout is on where it must be off, and measurements mean less"
        )


def _reference(model: Any, forward: Forward, examples: Sequence[Example], layout: Layout) -> Iterable[Finding]:
    """The reference is what training starts from. Virtual tokens change what a model says before they have learnt."""
    rows = sorted(examples, key=lambda e: e.tokens)[:ROWS]
    if "reference" not in rows[0].columns or has_virtual_tokens(model):
        return
    model.eval()
    batch = lay_out(rows, layout).to(_device(model))
    with torch.no_grad():
        apart = float((_said(forward(model, batch), batch) - batch.column("reference")).abs().mean())
    if apart > _tolerance(model, forward):
        where = ", ".join(str(row.origin) for row in rows)
        message = f"the reference of {where} is {apart:.3g} nats a token off the model that training starts from"
        yield Finding("error", "reference", f"{message}; at step 0 they must be the same, so that their ratio is 1")


# ---- gradients ---------------------------------------------------------------------------------------------------


def check_optimizer(model: Any, optimizer: torch.optim.Optimizer) -> list[Finding]:
    """Every trained weight is in the optimizer."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in trainable(model).items() if id(parameter) not in held]
    if not missing:
        return []
    message = f"{len(missing)} weights are to be trained that the optimizer does not have: {named(missing)}"
    return [Finding("error", "optimizer", f"{message}; they would stay as they are")]


def _reached(model: Any, forward: Forward, examples: Sequence[Example], layout: Layout) -> Iterable[Finding]:
    """Gradients of one training pass, with its dropout and recomputation of layers."""
    batch = lay_out(_rows(examples), layout).to(_device(model))
    model.train()
    output = forward(model, batch)
    total = _said(output, batch).sum() + (output.values(batch.targets).sum() if output.expected else 0.0)
    found = _norms(model, total)
    none = [name for name in trainable(model) if name not in found]
    if not any(found.values()):
        message = f"not one of {len(trainable(model))} trained weights gets a gradient, so nothing would be learnt"
        yield Finding("error", "gradients", f"{message}; the adapter is switched off, frozen in part, or out of reach")
    elif none:
        message = f"{len(none)} of {len(trainable(model))} trained weights get no gradient from a row: {named(none)}"
        yield Finding("warning", "gradients", f"{message}; unless other rows use them, they stay as they are")


def _slopes(model: Any, forward: Forward, examples: Sequence[Example], layout: Layout) -> Iterable[Finding]:
    """Sizes of the gradients of what is learnt against those of the definition; sizes alone, to hold no copy."""
    rows = _rows(examples)
    batch = lay_out(rows, layout).to(_device(model))
    model.eval()
    ours = _norms(model, (_said(forward(model, batch), batch) * batch.targets.weight).sum())
    theirs = _norms(model, _by_definition(model, forward, rows).sum())
    apart = {name: abs(ours.get(name, 0.0) - theirs.get(name, 0.0)) for name in {*ours, *theirs}}
    share = min(4 * _tolerance(model, forward), 0.3)
    if np.linalg.norm([*apart.values()]) > share * np.linalg.norm([*theirs.values()]):
        worst = max(apart, key=lambda name: apart[name])
        message = f"gradients are not those of the definition: {worst} has a norm of {ours.get(worst, 0.0):.3g}"
        yield Finding("error", "gradients", f"{message} instead of {theirs.get(worst, 0.0):.3g}; something is left out")


def _norms(model: Any, total: Tensor) -> dict[str, float]:
    """The gradient norm of each trained weight that has a gradient."""
    model.zero_grad(set_to_none=True)
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    found = {name: float(whole(p.grad.norm())) for name, p in trainable(model).items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


# ---- the second way ----------------------------------------------------------------------------------------------


def _rows(examples: Sequence[Example]) -> list[Example]:
    """The shortest rows, each cut to a window; of prompts without a supervised token everything counts."""
    shortest = sorted(extreme(examples, longest=False), key=lambda e: e.tokens)[:ROWS]
    return [replace(row, sequences=tuple(map(_window, row.sequences)), columns={}) for row in shortest]


def _window(tokens: Tokens) -> Tokens:
    asked = np.flatnonzero(tokens.weights[1:])
    first = int(asked[0]) + 1 if len(asked) else WINDOW
    part = slice(max(0, first - WINDOW), first + WINDOW)
    weights = (tokens.weights if len(asked) else np.ones_like(tokens.weights))[part].copy()
    weights[0] = 0
    return Tokens(tokens.ids[part], weights)


def _said(output: Output, batch: Batch) -> Tensor:
    """Log-probabilities `[N]`, or scores where the model has no language head."""
    scoring = output.scores is not None and not output.expected
    return output.values(batch.targets) if scoring else output.logprobs(batch.targets)


def _by_definition(model: Any, forward: Forward, rows: Sequence[Example]) -> Tensor:
    """Weight x log p(token) `[N]` of the supervised tokens, each sequence alone; of a scoring model its scores."""
    found = []
    with _plain_attention(model), autocast(forward.precision, _device(model)):
        for tokens in (tokens for row in rows for tokens in row.sequences):
            ids = torch.from_numpy(tokens.ids).long().to(_device(model))
            places = torch.from_numpy(np.flatnonzero(tokens.weights)).to(ids.device)
            weights = torch.from_numpy(tokens.weights).to(ids.device)[places]
            logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
            if forward.scoring:
                found.append(logits)
                continue
            logprobs = logits[-len(ids) :].log_softmax(-1)  # virtual tokens stand before
            found.append(weights * logprobs[places - 1].gather(-1, ids[places][:, None])[:, 0])
    return torch.cat(found)


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """The model with transformers' own attention."""
    before = model.config.get_text_config()._attn_implementation
    if not packs(model):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _tolerance(model: Any, forward: Forward) -> float:
    """How far two right ways may be apart in the mean, in nats."""
    halves = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    floats = {halves[forward.precision], *(p.dtype for p in model.parameters() if p.is_floating_point())}
    coarse = 0.05 if getattr(model, "is_quantized", False) else 0.0  # 8 bits round each batch in its own way
    return max(5e-3, coarse, *(32 * torch.finfo(dtype).eps for dtype in floats))


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device

"""The check before every training: what would go wrong silently is refused, with file, line and row.

It does not trust the room that made the data: the mask is read back from the ids and held against the text of the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from luthier.adapters.base import Adapter
from luthier.config import RunConfig
from luthier.data.conversation import Conversation, Message
from luthier.data.pack import Example, Layout, lay_out
from luthier.data.processor import Prepared
from luthier.data.render import Renderer, Tokens
from luthier.errors import CheckFailed
from luthier.models.load import packs
from luthier.models.output import Forward

Level = Literal["error", "warning", "note"]
SHOWN = 5
"""Rows named per finding."""

_SPACE = re.compile(r"\s+")
_GLUE = re.compile(r"</?think>")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the check has to say. Errors refuse the run."""

    level: Level
    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One rendered row as pieces of text, each with whether it is trained."""

    where: str
    pieces: list[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and two rendered rows to look at."""

    findings: list[Finding]
    samples: list[Sample]

    def require_no_errors(self) -> None:
        """Raise CheckFailed with every error."""
        errors = [finding for finding in self.findings if finding.level == "error"]
        if errors:
            listed = "\n".join(f"  {finding}" for finding in errors)
            raise CheckFailed(f"luthier check refuses to train:\n{listed}")


def check_data(config: RunConfig, data: Prepared, renderer: Renderer, adapter: Adapter) -> Report:
    """Everything that can be seen without the model's weights."""
    examples = [*data.train, *data.held_out]
    findings = [
        *_bad_rows(config, data),
        *_over_length(config, examples),
        *_leaks(data),
        *_each("double-bos", examples, lambda e: _double_bos(e, renderer)),
        *_vocabulary(examples, renderer),
        *_learning_rate(config, adapter),
    ]
    if config.objective.type != "pretrain":
        findings += _each("mask", examples, lambda e: _mask(e, renderer))
        findings += _each("end-of-turn", examples, lambda e: _end_of_turn(e, renderer, config))
        findings += _stop_tokens(examples, renderer)
    if not data.held_out:
        findings.append(Finding("note", "held-out", "no held-out rows (data.held_out), so nothing will be measured"))
    return Report(findings, [sample(example, renderer) for example in data.train[:2]])


def check_model(model: Any, data: Prepared, layout: Layout) -> list[Finding]:
    """What needs the loaded model: sizes, and a proof that packed rows do not see each other."""
    findings = []
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(int(t.ids.max()) for e in [*data.train, *data.held_out] for t in e.sequences)
    if largest >= rows:
        message = f"token id {largest} in the data, but the model embeds {rows} ids; tokenizer and model do not match"
        findings.append(Finding("error", "vocabulary", message))
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(t) for e in data.train for t in e.sequences)
    if places is not None and longest > places:
        message = f"a sequence of {longest} tokens, but the model knows {places} positions; lower data.max_length"
        findings.append(Finding("error", "positions", message))
    if not findings and layout.packing:
        findings += _packing(model, data.train, layout)
    return findings


def sample(example: Example, renderer: Renderer) -> Sample:
    """The first sequence of a row as pieces with and without training."""
    return Sample(str(example.origin), pieces(example.sequences[0], renderer))


def pieces(tokens: Tokens, renderer: Renderer) -> list[tuple[str, bool]]:
    """The text of a sequence, cut where training begins or ends."""
    return [(str(renderer.tokenizer.decode(ids)), on) for ids, on in _spans(tokens)]


def _spans(tokens: Tokens) -> Iterator[tuple[list[int], bool]]:
    start = 0
    trained = tokens.weights > 0
    for place in range(1, len(tokens) + 1):
        if place == len(tokens) or trained[place] != trained[start]:
            yield tokens.ids[start:place].tolist(), bool(trained[start])
            start = place


# ---- the rows ----------------------------------------------------------------------------------------------------


def _each(name: str, examples: Sequence[Example], fault: Callable[[Example], str | None]) -> list[Finding]:
    """One error that names the rows in which `fault` finds something."""
    faults = [(example.origin, found) for example in examples if (found := fault(example))]
    if not faults:
        return []
    return [Finding("error", name, _named([f"{origin}: {found}" for origin, found in faults]))]


def _named(rows: Sequence[str]) -> str:
    more = f"; and {len(rows) - SHOWN} more rows" if len(rows) > SHOWN else ""
    return "; ".join(rows[:SHOWN]) + more


def _bad_rows(config: RunConfig, data: Prepared) -> Iterable[Finding]:
    """Rows that could not be used, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for entry in data.ledger.entries:
        if entry.outcome == "dropped":
            by_reason.setdefault(entry.reason, []).append(f"{entry.file}:{entry.line}: {entry.detail}")
    for reason, rows in by_reason.items():
        chosen = config.data.bad_rows == "drop" or reason == "over-length"
        hint = "" if chosen else "; mend them, or leave them out with data.bad_rows=drop"
        level: Level = "warning" if chosen else "error"
        yield Finding(level, reason, f"{len(rows)} rows cannot be used: {_named(rows)}{hint}")


def _over_length(config: RunConfig, examples: Sequence[Example]) -> Iterable[Finding]:
    limit = config.data.max_length
    long = [(e.origin, max(len(t) for t in e.sequences)) for e in examples if any(len(t) > limit for t in e.sequences)]
    if long:
        rows = _named([f"{origin}: {length} tokens" for origin, length in long])
        longest = max(length for _, length in long)
        yield Finding(
            "error",
            "over-length",
            f"{len(long)} rows are longer than data.max_length={limit}: {rows}; raise it (the longest has {longest}), "
            "or choose data.over_length=drop, truncate or split",
        )


def _leaks(data: Prepared) -> Iterable[Finding]:
    """Held-out rows that are trained on would make every evaluation a lie."""
    trained = {example.content_id: example.origin for example in data.train}
    leaked = [f"{e.origin} is also {trained[e.content_id]}" for e in data.held_out if e.content_id in trained]
    if leaked:
        yield Finding("error", "held-out", f"{len(leaked)} held-out rows are also in training: {_named(leaked)}")


def _double_bos(example: Example, renderer: Renderer) -> str | None:
    bos = renderer.tokenizer.bos_token_id
    twice = bos is not None and any(t.ids[:2].tolist() == [bos, bos] for t in example.sequences)
    return (
        f"begins with two {renderer.tokenizer.bos_token} tokens; the data or the template adds one too many"
        if twice
        else None
    )


def _mask(example: Example, renderer: Renderer) -> str | None:
    """The supervised text, read back from the ids, against what the row's assistant says; white space aside."""
    if not isinstance(example.content, Conversation) or _cut(example):
        return None
    trained = "".join(_read(ids, renderer) for t in example.sequences for ids, on in _spans(t) if on)
    rest = _plain(trained)
    turns = [m for m in example.content.messages if m.role == "assistant" and m.weight > 0]
    for turn in sorted(turns, key=lambda m: -len(m.content)):
        said = _plain(turn.content)
        if said not in rest:
            return f"the supervised text lacks what the assistant says: {turn.content[:60]!r}"
        rest = rest.replace(said, "", 1)
    structured = any(turn.tool_calls or turn.reasoning for turn in turns)
    if rest and not structured:
        return f"text is supervised that the assistant does not say: {rest[:60]!r}"
    return None


def _read(ids: Sequence[int], renderer: Renderer) -> str:
    """The text of ids without control tokens."""
    kept = [i for i in ids if str(renderer.tokenizer.convert_ids_to_tokens(int(i))) not in renderer.control]
    return str(renderer.tokenizer.decode(kept))


def _plain(text: str) -> str:
    return _SPACE.sub("", _GLUE.sub("", text))


def _cut(example: Example) -> bool:
    """Whether the row was truncated or split: its first sequence then does not end with its answer."""
    content = example.content
    assert isinstance(content, Conversation)
    trained = sum(m.weight > 0 and m.role == "assistant" for m in content.messages)
    return sum(1 for t in example.sequences for _, on in _spans(t) if on) != trained


def _end_of_turn(example: Example, renderer: Renderer, config: RunConfig) -> str | None:
    """Every supervised span ends with one control token, and holds no other."""
    if config.data.over_length in ("truncate", "split") or not isinstance(example.content, Conversation):
        return None
    for tokens in example.sequences:
        for ids, on in _spans(tokens):
            marks = [str(renderer.tokenizer.convert_ids_to_tokens(int(i))) in renderer.control for i in ids]
            if on and not marks[-1]:
                return (
                    "a supervised answer does not end with an end-of-turn token, so the model would not learn to stop"
                )
    return None


def _stop_tokens(examples: Sequence[Example], renderer: Renderer) -> Iterable[Finding]:
    """A token that ends turns in training but does not stop generation: good in training, endless in serving."""
    ends = {ids[-1] for e in examples for t in e.sequences for ids, on in _spans(t) if on}
    strange = sorted(ends - renderer.stop_ids)
    marks = [str(renderer.tokenizer.convert_ids_to_tokens(i)) for i in strange]
    marks = [mark for mark in marks if mark in renderer.control]
    if marks:
        stops = ", ".join(str(renderer.tokenizer.convert_ids_to_tokens(i)) for i in sorted(renderer.stop_ids))
        message = (
            f"answers end with {', '.join(marks)}, but generation stops at {stops}; add it to generation_config.json"
        )
        yield Finding("warning", "stop-token", message)


def _vocabulary(examples: Sequence[Example], renderer: Renderer) -> Iterable[Finding]:
    tokenizer = renderer.tokenizer
    marked = [
        str(e.origin)
        for e in examples
        if isinstance(e.content, Conversation) and any(_has_control(m, renderer) for m in e.content.messages)
    ]
    if marked:
        message = f"{len(marked)} rows hold the text of control tokens, which become real ones: {_named(marked)}"
        yield Finding("warning", "control-token", message)
    if tokenizer.eos_token_id is None:
        yield Finding("error", "end-of-turn", "the tokenizer has no end token")


def _has_control(message: Message, renderer: Renderer) -> bool:
    return any(mark in message.content for mark in renderer.control)


def _learning_rate(config: RunConfig, adapter: Adapter) -> Iterable[Finding]:
    low, high = adapter.learning_rates
    rate = config.train.learning_rate
    if not low <= rate <= high:
        message = f"train.learning_rate={rate:g} is outside what {adapter.type} usually takes ({low:g} to {high:g})"
        yield Finding("warning", "learning-rate", message)


# ---- the model ---------------------------------------------------------------------------------------------------


def _packing(model: Any, examples: Sequence[Example], layout: Layout) -> Iterable[Finding]:
    """Put a short row beside two different neighbours: its log-probabilities must be the same to the last bit."""
    if not packs(model):
        message = "this model's attention cannot be cut into segments; set data.packing=false"
        return [Finding("error", "packing", message)]
    shortest = sorted(examples, key=lambda e: e.tokens)[:3]
    if len(shortest) < 3:
        return []
    forward = Forward(model)
    results = []
    with torch.no_grad():
        for neighbour in shortest[1:]:
            batch = lay_out([neighbour, shortest[0]], layout).to(next(model.parameters()).device)
            results.append(forward(model, batch).logprobs(batch.targets)[-shortest[0].supervised :])
    if not torch.allclose(results[0], results[1], rtol=0, atol=1e-4):
        message = "packed rows change each other's log-probabilities in this model; set data.packing=false"
        return [Finding("error", "packing", message)]
    return []

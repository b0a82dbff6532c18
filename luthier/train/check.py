"""The check before every training: what would go wrong silently is refused, with file, line and row.

It does not trust the room that made the data: the mask is read back from the ids and held against the text of the row.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Literal, cast

from luthier.adapters.base import Adapter
from luthier.config import RunConfig
from luthier.data.conversation import ROLES, Message, conversations
from luthier.data.pack import Example, Layout
from luthier.data.processor import Prepared
from luthier.data.render import Renderer, Tokens
from luthier.data.store import identities_of, longest_of
from luthier.errors import CheckFailed
from luthier.objectives.base import Objective

Level = Literal["error", "warning", "note"]
CHECKED = 200_000
"""Most rows that are looked at."""
SHOWN = 5
"""Rows named per finding."""
PARITY = 500
"""Rows at most, evenly spread, whose prompts are rendered once more as serving would."""

_SPACE = re.compile(r"\s+")
_GLUE = re.compile(r"</?think>")
_ROLES = ROLES | {"model", "ipython"}
"""Words between control tokens that say who speaks, which is never the assistant's to say."""


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
    """One rendered row as pieces of text, each with whether it is trained.

    Where it was asked for, `reasons` say of each piece why it is not (empty: it is), and `left_out` what of the row the
    template does not write.
    """

    where: str
    pieces: list[tuple[str, bool]]
    reasons: Sequence[str] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and two rendered rows to look at."""

    findings: list[Finding]
    samples: list[Sample]

    def with_findings(self, more: Sequence[Finding]) -> Report:
        """With what was found since."""
        return Report([*self.findings, *more], self.samples)

    def require_no_errors(self) -> None:
        """Raise CheckFailed with every error."""
        errors = [finding for finding in self.findings if finding.level == "error"]
        if errors:
            listed = "\n".join(f"  {finding}" for finding in errors)
            raise CheckFailed(f"luthier check refuses to train:\n{listed}")


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything that is known before the model is loaded."""

    renderer: Renderer
    data: Prepared
    layout: Layout
    report: Report


def check_data(config: RunConfig, data: Prepared, renderer: Renderer, adapter: Adapter) -> Report:
    """Everything that can be seen without the model's weights."""
    examples = looked_at(data)
    findings = [
        *_bad_rows(config, data),
        *_over_length(config, data),
        *_leaks(data),
        *_each("double-bos", examples, lambda e: _double_bos(e, renderer)),
        *_vocabulary(examples, renderer),
        *_learning_rate(config, adapter),
    ]
    if (reason := adapter.refusal(config)) is not None:
        findings.append(Finding("error", "adapter", f"{adapter.type}: {reason}"))
    if cast(Objective, config.objective).learns_turns:
        cut = {(e.file, e.line, e.content_id) for e in data.ledger.of("truncated", "split")}

        def was_cut(e: Example) -> bool:
            return (e.origin.file, e.origin.line, e.content_id) in cut

        findings += _each("mask", examples, lambda e: _mask(e, renderer, cut=was_cut(e)))
        findings += _each("end-of-turn", examples, lambda e: _end_of_turn(e, renderer, cut=was_cut(e)))
        every = max(1, -(-(len(data.train) + len(data.held_out)) // PARITY))
        asked = [e for e in islice(examples, 0, None, every) if not was_cut(e)]
        findings += _each("prompt", asked, lambda e: _prompt(e, renderer))
        findings += _stop_tokens(examples, renderer)
    if (count := len(data.train) + len(data.held_out)) > CHECKED:
        findings.append(
            Finding("note", "rows", f"of {count:,} rows {CHECKED:,}, evenly spread, were looked at closely")
        )
    if not data.held_out:
        findings.append(Finding("note", "held-out", "no held-out rows (data.held_out), so nothing will be measured"))
    return Report(findings, [sample(example, renderer) for example in data.train[:2]])


def looked_at(data: Prepared) -> Iterable[Example]:
    """All rows, or so many of them, evenly spread; they can be gone through again."""
    return _Spread(data, max(1, -(-(len(data.train) + len(data.held_out)) // CHECKED)))


@dataclass(frozen=True, slots=True)
class _Spread:
    data: Prepared
    step: int

    def __iter__(self) -> Iterator[Example]:
        for rows in (self.data.train, self.data.held_out):
            yield from (rows[place] for place in range(0, len(rows), self.step))


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


def _each(name: str, examples: Iterable[Example], fault: Callable[[Example], str | None]) -> list[Finding]:
    """One error that names the rows in which `fault` finds something."""
    faults = [(example.origin, found) for example in examples if (found := fault(example))]
    if not faults:
        return []
    return [Finding("error", name, named([f"{origin}: {found}" for origin, found in faults]))]


@dataclass(slots=True)
class Named:
    """What was found: the first few, and how many there are."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, row: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= SHOWN:
            self.first.append(row)

    def __str__(self) -> str:
        more = f"; and {self.count - SHOWN} more rows" if self.count > SHOWN else ""
        return "; ".join(self.first) + more


def named(rows: Sequence[str]) -> str:
    """The first few of what was found, and how many more there are."""
    return str(Named(list(rows[:SHOWN]), len(rows)))


def _bad_rows(config: RunConfig, data: Prepared) -> Iterable[Finding]:
    """Rows that could not be used, grouped by reason."""
    by_reason: dict[tuple[str, bool], Named] = {}
    for entry in data.ledger.of("dropped"):
        rows = by_reason.setdefault((entry.reason, entry.cleaned), Named())
        rows.add(f"{entry.file}:{entry.line}: {entry.detail}")
    for (reason, cleaned), rows in by_reason.items():
        if cleaned:
            yield Finding("note", reason, f"{rows.count} rows were left out as the config says: {rows}")
            continue
        chosen = config.data.bad_rows == "drop" or reason == "over-length"
        hint = "" if chosen else "; mend them, or leave them out with data.bad_rows=drop"
        level: Level = "warning" if chosen else "error"
        yield Finding(level, reason, f"{rows.count} rows cannot be used: {rows}{hint}")


def _over_length(config: RunConfig, data: Prepared) -> Iterable[Finding]:
    limit, longest, long = config.data.max_length, 0, Named()
    for rows in (data.train, data.held_out):
        for place, length in enumerate(longest_of(rows)):
            if length > limit:
                long.add(f"{rows[place].origin}: {length} tokens" if long.count < SHOWN else "")
                longest = max(longest, length)
    if long.count:
        yield Finding(
            "error",
            "over-length",
            f"{long.count} rows are longer than data.max_length={limit}: {long}; raise it (the longest has {longest}), "
            "or choose data.over_length=drop, truncate or split",
        )


def _leaks(data: Prepared) -> Iterable[Finding]:
    """Held-out rows that are trained on would make every evaluation a lie."""
    held = {int(identity, 16) for identity, _ in identities_of(data.held_out)}
    trained = {i: origin for i, origin in identities_of(data.train) if int(i, 16) in held} if held else {}
    if trained:
        rows = ((i, origin) for i, origin in identities_of(data.held_out) if i in trained)
        leaked = list(dict.fromkeys(f"{origin} is also {trained[i]}" for i, origin in rows))
        yield Finding("error", "held-out", f"{len(leaked)} held-out rows are also in training: {named(leaked)}")


def _double_bos(example: Example, renderer: Renderer) -> str | None:
    bos = renderer.tokenizer.bos_token_id
    twice = bos is not None and any(t.ids[:2].tolist() == [bos, bos] for t in example.sequences)
    return (
        f"begins with two {renderer.tokenizer.bos_token} tokens; the data or the template adds one too many"
        if twice
        else None
    )


def _mask(example: Example, renderer: Renderer, *, cut: bool) -> str | None:
    """The supervised text, read back from the ids, against what the row's assistant says; white space aside.

    Each turn must be one span of its own, whole and with nothing else in it. Of a row that was cut, each span must be
    a part of what is said.
    """
    said_by_row = conversations(example.content)
    if not said_by_row:
        return None
    spans = [_plain(_read(_answer(ids, renderer), renderer)) for t in example.sequences for ids, on in _spans(t) if on]
    turns = [m for c in said_by_row for m in c.messages if m.role == "assistant" and m.weight > 0]
    said = "".join(_said(turn) for turn in turns)
    if cut:
        parts = [span.strip("\ufffd") for span in spans]  # half of a character
        strange = [part for part in parts if part not in said and not any(map(_structured, turns))]
        return f"text is supervised that the assistant does not say: {strange[0][:60]!r}" if strange else None
    if said == "".join(spans):
        return None
    for turn in sorted(turns, key=_structured):
        home = next((span for span in spans if _tells(span, turn)), None)
        if home is None:
            wider = next((span for span in spans if _said(turn) in span), None)
            if wider is not None and not _structured(turn):
                rest = wider.replace(_said(turn), "", 1)
                return f"text is supervised that the assistant does not say: {rest[:60]!r}"
            return f"the supervised text lacks what the assistant says: {turn.content[:60]!r}"
        spans.remove(home)
    rest = "".join(spans)
    return f"text is supervised that the assistant does not say: {rest[:60]!r}" if rest else None


def _structured(turn: Message) -> bool:
    """Whether the template writes more for a turn than its text."""
    return bool(turn.tool_calls or turn.reasoning)


def _said(turn: Message) -> str:
    return _plain((turn.reasoning or "") + turn.content)


def _tells(span: str, turn: Message) -> bool:
    """Whether a span is a turn: its text exactly, or, with calls and reasoning, everything that it is made of."""
    if not _structured(turn):
        return span == _said(turn)
    calls = [str(call["function"]["name"]) for call in turn.tool_calls]
    return all(_plain(piece) in span for piece in (turn.reasoning or "", turn.content, *calls))


def _answer(ids: list[int], renderer: Renderer) -> list[int]:
    """A supervised span without the channel that gpt-oss names first: `<|channel|>final<|message|>`."""
    marks = [i in _control_ids(renderer) for i in ids]
    if not marks[0] or True not in marks[1:]:
        return ids
    end = marks.index(True, 1)
    word = str(renderer.tokenizer.decode(ids[1:end]))
    return ids[end + 1 :] if word.isalpha() and word not in _ROLES and ids[end + 1 :] else ids


def _read(ids: Sequence[int], renderer: Renderer) -> str:
    """The text of ids without control tokens."""
    control = _control_ids(renderer)
    return str(renderer.tokenizer.decode([i for i in ids if i not in control]))


@lru_cache(maxsize=1)
def _control_ids(renderer: Renderer) -> frozenset[int]:
    return frozenset(renderer.tokenizer.convert_tokens_to_ids(list(renderer.control)))


def _plain(text: str) -> str:
    return _SPACE.sub("", _GLUE.sub("", unicodedata.normalize("NFKC", text)))  # some tokenizers normalise


def _end_of_turn(example: Example, renderer: Renderer, *, cut: bool) -> str | None:
    """Every supervised span ends with a control token, and none stands within it, unless the row was cut there."""
    said_by_row = conversations(example.content)
    if not said_by_row:
        return None
    structured = any(_structured(m) for c in said_by_row for m in c.messages if m.role == "assistant")
    control = _control_ids(renderer)
    for tokens in example.sequences:
        end = 0
        for ids, on in _spans(tokens):
            end += len(ids)
            answer = _answer(ids, renderer)
            marks = [i in control for i in answer]
            if on and ids[-1] not in control and not (cut and end == len(tokens)):
                return "a supervised answer does not end with an end-of-turn token: the model would not learn to stop"
            if on and not structured and (sorted(marks) != marks or (all(marks) and not cut)):
                mark = renderer.tokenizer.convert_ids_to_tokens(answer[marks.index(True)])
                return f"the control token {mark} is supervised, and no answer ends there"
    return None


def _prompt(example: Example, renderer: Renderer) -> str | None:
    """Each answer is learnt behind exactly the ids that serving would feed."""
    for conversation in conversations(example.content):
        for index, turn in enumerate(conversation.messages):
            if turn.role != "assistant" or turn.weight <= 0:
                continue
            fed = renderer.prompt(conversation.messages[:index], conversation.tools)
            if not any(len(t) > len(fed) and t.ids[: len(fed)].tolist() == fed for t in example.sequences):
                end = str(renderer.tokenizer.decode(fed[-12:]))
                return (
                    f"the answer {turn.content[:40]!r} is not learnt behind what serving would feed, {end!r} at its end"
                )
    return None


def _stop_tokens(examples: Iterable[Example], renderer: Renderer) -> Iterable[Finding]:
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


def _vocabulary(examples: Iterable[Example], renderer: Renderer) -> Iterable[Finding]:
    tokenizer = renderer.tokenizer
    marked = [
        str(e.origin)
        for e in examples
        if any(_has_control(m, renderer) for c in conversations(e.content) for m in c.messages)
    ]
    if marked:
        message = f"{len(marked)} rows hold the text of control tokens, which become real ones: {named(marked)}"
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

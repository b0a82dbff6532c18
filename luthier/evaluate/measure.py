"""One model on data files: every kind of evaluation on the rows it is made for."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from luthier.config import DataConfig, EvaluateConfig, ModelConfig, SourceConfig, read_config
from luthier.curate.likelihood import answered
from luthier.data.augment.rewrite import value_of
from luthier.data.conversation import Content, Task, Text
from luthier.data.pack import Example, Layout
from luthier.data.processor import DataProcessor
from luthier.data.render import Renderer, Tokens
from luthier.errors import RowError, UserError
from luthier.evaluate.kinds import Kind, Subject, require_places
from luthier.evaluate.records import Journal, Record, Rows, totals
from luthier.inference.hf import HfEngine
from luthier.models.find import find
from luthier.models.load import ModelLoader, packs
from luthier.models.output import Forward
from luthier.system.files import write_text
from luthier.system.hardware import micro_batch_tokens

UNLIMITED_TOKENS = 2**31 - 1
"""Rows are measured whole: nothing is cut off from what a model is judged by."""

HELD_OUT = "held_out.jsonl"
"""In a run's folder, once it was asked for: the rows that were split off."""

OnFile = Callable[[str, int], Callable[[int], object]]
"""Told a file and the work ahead; returns what counts it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model was found to do with the rows of a file, and the rows that it cannot use."""

    file: str
    records: list[Record]
    dropped: list[str]

    @property
    def metrics(self) -> dict[str, float]:
        """Each metric over all rows."""
        return totals(self.records)


def measure(
    models: ModelLoader,
    model: ModelConfig,
    files: Sequence[str],
    config: EvaluateConfig,
    *,
    on_file: OnFile = lambda file, work: lambda done: None,
    output: Path | None = None,
) -> list[Measured]:
    """Load a model once and measure the kinds of `config` on files; what is in `output` goes on where it was killed.

    Raises:
        UserError: the model or a file cannot be read, or settings do not fit the rows.
    """
    renderer = models.renderer(model)
    rendered = [rows_of(file, renderer) for file in files]
    loaded = models.load_for_use(model)
    device = next(loaded.parameters()).device.type
    subject = subject_of(loaded, renderer, config, micro_batch_tokens("auto", device))
    journal = Journal(output, _about(model, files, config) if output else {})
    results = []
    for file, (every, unusable) in zip(files, rendered, strict=True):
        examples, too_long = _within(every, loaded)
        rows = Rows(file, examples)
        records = measured(subject, rows, journal, on_file)
        results.append(Measured(file, records, [*unusable, *too_long, *subject.dropped]))
        subject.dropped.clear()
    journal.finish(record for result in results for record in result.records)
    del loaded, subject
    gc.collect()
    return results


def subject_of(model: Any, renderer: Renderer, config: EvaluateConfig, tokens: int) -> Subject:
    """A loaded model, ready to be measured with so many tokens at once."""
    layout = Layout(packing=packs(model), tokens=tokens, pad_id=renderer.tokenizer.pad_token_id or 0)
    return Subject(model, renderer, Forward(model), layout, HfEngine(model, renderer), config)


def measured(subject: Subject, rows: Rows, journal: Journal, on_file: OnFile) -> list[Record]:
    """The records of a file's rows, kind by kind, each in the order of the file; what the journal has is not done."""
    work = []
    for kind in cast(list[Kind], subject.config.kinds):
        mine = [i for i, row in enumerate(rows.examples) if kind.takes(row.content)]
        for group, find_out in kind.portions([rows.examples[i] for i in mine], subject):
            work.append((kind.type, [mine[place] for place in group], find_out))
    done = on_file(rows.file, sum(len(group) for _, group, _ in work))
    order: list[tuple[str, int]] = []
    for kind_name, group, find_out in work:
        if not all((rows.file, kind_name, rows.names[i]) in journal.records for i in group):
            found = zip(group, find_out(), strict=True)
            journal.add(rows.record(i, kind_name, one) for i, one in found)
        order += [(kind_name, i) for i in group]
        done(len(group))
    kinds = list(dict.fromkeys(name for name, _ in order))
    order.sort(key=lambda one: (kinds.index(one[0]), one[1]))
    return [journal.records[rows.file, name, rows.names[i]] for name, i in order]


def rows_of(file: str, renderer: Renderer) -> tuple[Sequence[Example], list[str]]:
    """The rendered rows of one file, conversations and plain texts alike, and the rows that could not be used."""
    config = DataConfig(train=[SourceConfig(path=file)], held_out=0.0, max_length=UNLIMITED_TOKENS)
    data = DataProcessor().prepare(config, renderer, _Anything())
    dropped = [f"{e.file}:{e.line}: {e.detail}" for e in data.ledger.of("dropped")]
    return data.train, dropped


def held_out_of(run: str, models: ModelLoader) -> list[str]:
    """The files of what a run did not learn from; a share that it split off is written into its folder.

    Raises:
        UserError: it is no run, or held nothing out; as reading the run's rows raises it.
    """
    if not (settings := Path(run) / "config.yaml").is_file():
        raise UserError(f"{run} is no run, which would know what it held out: name rows by --data FILE")
    config = read_config(settings)
    if isinstance(config.data.held_out, list):
        return [source.path for source in config.data.held_out]
    rows = DataProcessor().prepare(config.data, models.renderer(config.model), cast(Any, config.objective)).held_out
    text = "".join(json.dumps(value_of(row.content), ensure_ascii=False) + "\n" for row in rows)
    if not text:
        raise UserError(f"{run} held nothing out: name rows that it has not seen by --data FILE")
    if not (file := Path(run) / HELD_OUT).is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
    return [str(file)]


def _about(model: ModelConfig, files: Sequence[str], config: EvaluateConfig) -> dict[str, Any]:
    """What a measurement is of: it goes on where nothing of this has changed."""
    found = find(model.path)
    places = [Path(found.location), *([found.adapter] if found.adapter else [])]
    weights = [file for place in places for file in sorted(place.glob("*.safetensors") if place.is_dir() else [place])]
    return {
        "model": model.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
        "files": [_state(Path(name)) for name in files] + [_state(file) for file in weights],
    }


def _state(file: Path) -> list[Any]:
    there = file.stat() if file.exists() else None
    return [str(file), there and there.st_size, there and there.st_mtime_ns]


def _within(examples: Sequence[Example], model: Any) -> tuple[list[Example], list[str]]:
    """The rows that fit into the positions a model knows, and the others by name."""
    fitting, others = list[Example](), list[str]()
    for example in examples:
        try:
            require_places(example, model)
            fitting.append(example)
        except RowError as error:
            others.append(f"{example.origin}: {error.detail}")
    return fitting, others


class _Anything:
    """Renders what a file holds: answers to questions, or whole texts; of two answers the better one."""

    joint: ClassVar[bool] = False
    online: ClassVar[bool] = True
    """Rows may only ask: those are answered, and have no loss."""

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The sequences to be measured."""
        learnt = answered(content)
        if isinstance(content, Task) and learnt is None:
            return [Tokens.unsupervised(renderer.prompt(content.asked.messages, content.asked.tools))]
        assert learnt is not None
        return [renderer.whole(learnt)] if isinstance(learnt, Text) else renderer.conversation(learnt)

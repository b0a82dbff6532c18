"""THE page: how a run goes, from config to tuned model. The only file that sees every room of the core.

    model, metrics = luthier.Factory().fine_tune(config)

Each of the four parts can be replaced by any object with the same methods:
`Factory(data=..., models=..., trainer=..., evaluator=...)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from luthier.adapters.base import Adapter
from luthier.assembly import Assembly, in_steps
from luthier.config import RunConfig
from luthier.data.ledger import ROWS
from luthier.data.lineage import carried, fold
from luthier.data.pack import Layout
from luthier.data.processor import DataProcessor, DataProcessorLike, Prepared
from luthier.data.render import Renderer
from luthier.data.store import Rows
from luthier.data.stream import require_stream
from luthier.distributed.single import SingleStrategy
from luthier.distributed.strategy import Strategy, StrategySettings, pick_device
from luthier.errors import CheckFailed, LuthierError, StorageError
from luthier.evaluate.evaluator import Evaluator, EvaluatorLike
from luthier.evaluate.question import question
from luthier.export.certificate import of_run
from luthier.inference.hf import HfEngine
from luthier.models.faster import plain
from luthier.models.find import pinned
from luthier.models.inputs import inputs_of, on_disk
from luthier.models.load import ModelLoader, ModelLoaderLike
from luthier.objectives.base import Objective
from luthier.planner.automatic import automatic
from luthier.registry.index import Registry
from luthier.system.files import refused_writes_of, sha256_of, write_text
from luthier.system.hardware import choose_precision, environment, micro_batch_tokens, peak_memory_bytes
from luthier.tracking.base import Tracker, TrackerSettings
from luthier.tracking.jsonl import Jsonl
from luthier.tracking.plot import plot_loss
from luthier.tracking.report import write_report
from luthier.tracking.run import INPUTS, Files, RunFolder, fingerprint, require_same
from luthier.train.check import Ready, check_data
from luthier.train.checkpoint import Checkpoints, Trained, verify
from luthier.train.fit import Fit
from luthier.train.loop import Trainer, TrainerLike
from luthier.train.observers.base import Observer
from luthier.train.observers.lineage import Lineage
from luthier.train.observers.log import Log
from luthier.train.observers.processes import Processes
from luthier.train.observers.save import Save
from luthier.train.observers.watched import Watched
from luthier.train.optim.base import OptimizerSettings
from luthier.train.optim.wrapped import evaluation_weights, settle
from luthier.train.state import State
from luthier.train.step import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FineTuned(NamedTuple):
    """The tuned model in evaluation mode, and what was measured."""

    model: PreTrainedModel
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Claim:
    """An output folder that a run may use, and what is recorded in it."""

    folder: RunFolder
    config: dict[str, Any]
    data: str
    changes: list[str]

    def take(self, files: Files, *, restart: bool) -> None:
        """Write what the run is, where it begins or has changed."""
        if restart or not self.folder.started(files):
            self.folder.start(self.config, self.data, files, restart=restart)
        elif self.changes:
            files = {**files, ROWS: carried(self.folder.path, files[ROWS])}
            self.folder.change(self.config, self.data, self.changes, files)


@dataclass(frozen=True, slots=True)
class Checked(Ready):
    """What the whole check knows, and what the run takes, where that was asked."""

    fit: Fit | None


class Stages:
    """Told what a run is doing; interfaces subclass it to show progress."""

    def stage(self, text: str) -> None:
        """A new stage begins."""

    def report(self, ready: Ready) -> None:
        """The check is done; warnings and sample rows are in `ready.report`."""


class Factory:
    """Runs configs with its four parts."""

    def __init__(
        self,
        *,
        data: DataProcessorLike | None = None,
        models: ModelLoaderLike | None = None,
        trainer: TrainerLike | None = None,
        evaluator: EvaluatorLike | None = None,
    ) -> None:
        self.data: DataProcessorLike = data or DataProcessor()
        self.models: ModelLoaderLike = models or ModelLoader()
        self.trainer: TrainerLike = trainer or Trainer()
        self.evaluator: EvaluatorLike = evaluator or Evaluator()

    def fine_tune(
        self,
        config: RunConfig,
        *,
        observers: Sequence[Observer] = (),
        stages: Stages | None = None,
        restart: bool = False,
        allow_changes: bool = False,
    ) -> FineTuned:
        """Check, train, measure and save one run; continues an interrupted run of the same config.

        `restart` begins anew; `allow_changes` goes on although config or data have changed, and writes down how.

        Raises:
            UserError: a mistake in config, data, model or output folder, found before anything is trained.
            Interrupted: stopped by a signal, after a checkpoint.
            LuthierError: anything else that can be said in a sentence.
        """
        stages = stages or Stages()
        config = config.model_copy(update={"model": pinned(config.model)})
        RunFolder(config.output.dir).require_free(restart=restart)
        strategy = automatic(config, stages.stage).open()
        with ExitStack() as held:
            held.callback(strategy.close)
            held.enter_context(_names_lost(strategy))
            stages.stage("reading and rendering the data")
            ready = self.prepare(config, device_type=strategy.device.type)
            stages.report(ready)
            ready.report.require_no_errors()
            config = _as_rendered(config, ready.renderer)
            claim = self.claim(config, ready, restart=restart, allow_changes=allow_changes)
            require_same(strategy.gather, claim.config, claim.data)
            for change in claim.changes:
                stages.stage(f"changed      {change}")
            trackers = _trackers(config) if strategy.rank == 0 else []
            stages.stage("loading the model")
            assembly = Assembly(config, ready, strategy, models=self.models, evaluator=self.evaluator)
            job, checkpoints = assembly.job(restart=restart), assembly.checkpoints
            for finding in assembly.findings:
                stages.stage(f"warning: {finding}")
            ready = replace(ready, report=ready.report.with_findings(assembly.findings))
            if strategy.rank == 0:
                held.enter_context(claim.folder.lock())
                claim.folder.require_free(restart=restart)  # again: the one who had it may have finished
                claim.take(_files(config, ready, assembly.kernels), restart=restart)
            held.callback(checkpoints.wait)
            strategy.barrier()
            job = _resume(job, checkpoints, stages)
            job = _observe(job, config, ready, checkpoints, trackers, observers)
            stages.stage(f"training {_counts(job)}")
            state = self.trainer.train(job)
            stages.stage("measuring and saving the tuned model")
            metrics = self._finish(config, ready, job, checkpoints, state, stages)
            if strategy.rank == 0:
                claim.folder.finish()
                _remember(config, stages)
            return FineTuned(job.trained.model, metrics)

    def prepare(self, config: RunConfig, *, device_type: str = "cpu") -> Ready:
        """Tokenizer, data and the check of both; nothing is written."""
        cast(OptimizerSettings, config.train.optimizer).require(config)
        cast(StrategySettings, config.parallel).require(config)
        renderer = self.models.renderer(config.model)
        objective = cast(Objective, config.objective)
        if config.data.streaming:
            require_stream(config, objective)
        data = self.data.prepare(config.data, renderer, objective)
        adapter = cast(Adapter, config.adapter)
        report = check_data(config, data, renderer, adapter)
        rows = config.train.micro_batch_size
        layout = Layout(
            packing=config.data.packing and not adapter.virtual_tokens,
            tokens=micro_batch_tokens(config.train.micro_batch_tokens, device_type) if rows == "auto" else 2**31,
            rows=None if rows == "auto" else rows,
            pad_id=renderer.tokenizer.pad_token_id or 0,
        )
        return Ready(renderer, data, layout, report)

    def check(self, config: RunConfig, *, most_bytes: int | None = None) -> Checked:
        """The whole check, the model's part included; what it trains is thrown away, and nothing is written.

        With `most_bytes`, a few steps are made to see what the run takes, and stopped before they hold more.
        """
        device = pick_device(0)
        choose_precision(config.train.precision, device.type)  # which refuses what this machine cannot
        ready = self.prepare(config, device_type=device.type)
        assembly = Assembly(config, ready, SingleStrategy(device), models=self.models, evaluator=self.evaluator)
        fit = None
        with suppress(CheckFailed):  # its findings say why; what cannot be learnt from is not shown to a model
            ready.report.require_no_errors()
            fit = assembly.fit(most_bytes)
        return Checked(ready.renderer, ready.data, ready.layout, ready.report.with_findings(assembly.findings), fit)

    def claim(self, config: RunConfig, ready: Ready, *, restart: bool, allow_changes: bool = False) -> Claim:
        """The output folder, if this run may use it, with what will be recorded: config and a hash of the data.

        Raises:
            OutputError: it holds another run, or what this run is made from; nothing was written.
        """
        folder = RunFolder(config.output.dir)
        resolved = config.model_dump(mode="json")
        named = list(on_disk(resolved["objective"]))
        data_id = _data_id(ready.data, [path for path in named if path.is_file()])
        sources = [*config.data.train, *(config.data.held_out if isinstance(config.data.held_out, list) else [])]
        changes = folder.require_free_or_same(resolved, data_id, restart=restart, allow_changes=allow_changes)
        needed = [config.model.path, config.model.chat_template, *(source.path for source in sources)]
        folder.require_outside([*needed, *map(str, named)])
        return Claim(folder, resolved, data_id, changes)

    def _finish(
        self, config: RunConfig, ready: Ready, job: Job, checkpoints: Checkpoints, state: State, stages: Stages
    ) -> dict[str, float]:
        """Choose the final weights, measure them, write them and the report."""
        trained, folder = job.trained, Path(config.output.dir)
        final = _final_weights(config, trained, checkpoints, state, stages)
        plain(trained.model.eval())
        metrics: dict[str, float] = {"steps": state.step, "tokens": state.tokens, "final_step": final}
        if job.evaluate is not None:
            metrics |= job.evaluate()
        if config.evaluate.metrics or config.evaluate.kinds:
            metrics |= self.evaluator.answers(trained.model, ready.renderer, ready.data.held_out, config.evaluate)
        metrics["peak_memory_bytes"] = peak_memory_bytes()
        with refused_writes_of(folder / "the tuned model"):
            trained.save(folder)
        if trained.strategy.ranks == 1:
            try:
                of_run(folder, trained.model, ready.renderer, (example.content for example in ready.data.held_out))
            except LuthierError as error:  # which must not cost what was learnt
                stages.stage(f"warning: no certificate: {error}")
        if trained.strategy.rank == 0:
            write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
            fold(folder)
            plot_loss(folder)
            write_report(
                folder, f"Run {folder.name}", _sections(config, ready, metrics, trained.adapter.report(trained.model))
            )
        return metrics


@contextmanager
def _names_lost(strategy: Strategy) -> Iterator[None]:
    """Say of an error of torch which other rank is its cause, where it is one."""
    try:
        yield
    except RuntimeError as error:
        if (lost := strategy.lost(error)) is None:
            raise
        raise lost from error


def _final_weights(config: RunConfig, trained: Trained, checkpoints: Checkpoints, state: State, stages: Stages) -> int:
    """Put the weights that are kept into the model: of the best evaluation, or the last; returns their step."""
    best = state.best_step
    if config.output.final == "best" and best is not None and best != state.step:
        path = checkpoints.path(best)
        if (fault := verify(path)) is None:
            trained.load(path)
            return best
        stages.stage(f"warning: {path}, the best, is damaged ({fault}); the last weights are kept")
    settle(trained.optimizer)
    return state.step


def _as_rendered(config: RunConfig, renderer: Renderer) -> RunConfig:
    """The config with the template's options that were in force, also where they came from the run it starts from."""
    model = config.model.model_copy(update={"template_options": renderer.options})
    return config.model_copy(update={"model": model})


def _resume(job: Job, checkpoints: Checkpoints, stages: Stages) -> Job:
    """The job from its newest good checkpoint on."""
    for path, fault in checkpoints.remove_damaged(job.trained.strategy).items():
        stages.stage(f"warning: {path} is damaged ({fault}) and was removed")
    newest = checkpoints.newest()
    if newest is None:
        return job
    state = checkpoints.restore(newest, job.trained)
    stages.stage(f"continuing from {newest} (step {state.step} of {job.total_steps})")
    return replace(job, state=state)


def _trackers(config: RunConfig) -> list[Tracker]:
    """Where numbers are written; raises MissingExtra before anything is loaded."""
    settings = [Jsonl(), *(part for part in config.output.trackers if part != Jsonl())]
    return [cast(TrackerSettings, part).open(Path(config.output.dir)) for part in settings]


def _observe(
    job: Job,
    config: RunConfig,
    ready: Ready,
    checkpoints: Checkpoints,
    trackers: Sequence[Tracker],
    observers: Sequence[Observer],
) -> Job:
    """The job with its observers: those that all ranks take part in everywhere, the rest on the first."""
    save = Save(checkpoints, job.trained, every=in_steps(config.train.save_every, job.loader))
    everywhere: tuple[Observer, ...] = (save,)
    if config.output.per_process:
        everywhere = (Processes(checkpoints.folder, job.trained.strategy), save)
    if job.trained.strategy.rank > 0:
        return replace(job, observers=everywhere)
    questions = ((one.prompt, one.reference) for row in ready.data.held_out if (one := question(row.content)))
    asked = list(islice(questions, config.evaluate.watch))
    if asked and not job.trained.strategy.cut:
        engine, usual = HfEngine(job.trained.model, ready.renderer), partial(evaluation_weights, job.trained.optimizer)
        longest = config.evaluate.max_new_tokens
        everywhere = (Watched(checkpoints.folder, engine, asked, usual, longest=longest), *everywhere)
    return replace(job, observers=(Log(trackers), Lineage(checkpoints.folder), *everywhere, *observers))


def _counts(job: Job) -> str:
    count, total = job.parameters
    return f"{count:,} of {total:,} parameters ({100 * count / total:.2f} %) for {job.total_steps} steps"


def _data_id(data: Prepared, files: Sequence[Path]) -> str:
    """A hash of what the result depends on, in order: files of code, ids, weights, and what else rows say."""

    def parts() -> Iterator[str]:
        yield from map(sha256_of, files)
        for rows in (data.train, data.held_out):  # held-out rows choose the best checkpoint
            if isinstance(rows, Rows):
                yield rows.digest.hexdigest()
                continue
            for row in rows:
                yield json.dumps(asdict(row.content), sort_keys=True, default=str)
                yield from (t.ids.tobytes().hex() + t.weights.tobytes().hex() for t in row.sequences)

    return fingerprint(parts())


def _files(config: RunConfig, ready: Ready, kernels: Sequence[str]) -> Files:
    return {
        "config.yaml": config.to_yaml(),
        "environment.json": json.dumps(environment() | {"kernels": [*kernels]}, indent=1) + "\n",
        INPUTS: inputs_of(config),
        ROWS: ready.data.ledger.to_json(),
    }


def _remember(config: RunConfig, stages: Stages) -> None:
    """Put the finished run into the index, and where that was asked for into the registry."""
    folder, name = config.output.dir, config.output.register_as
    try:
        Registry().remember(Path(folder))
        if name:
            stages.stage(f"registered   {Registry().register(folder, name).uri}")
    except StorageError as error:
        stages.stage(f"warning: {error}")


def _sections(
    config: RunConfig, ready: Ready, metrics: Mapping[str, float], measured: str | None
) -> list[tuple[str, Mapping[str, object] | str]]:
    readings = "\n".join(f"* {reading}" for reading in ready.data.readings)
    warnings = "\n".join(f"* {f.level}: {f}" for f in ready.report.findings) or "Nothing to report."
    return [
        ("Result", dict(metrics)),
        ("Loss", "![loss](loss.png)"),
        ("Rows", readings),
        ("What became of every row", {**ready.data.ledger.summary(), **ready.data.ledger.reasons()}),
        ("Check", warnings),
        *([("Ranks", measured)] if measured else []),
        ("Config", f"```yaml\n{config.to_yaml()}```"),
        (
            "Next",
            f"```\nluthier chat {config.output.dir}\n"
            f"luthier compare {config.model.path} {config.output.dir} --data FILE\n```",
        ),
    ]

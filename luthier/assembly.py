"""The parts of one run, put together in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from luthier.adapters.base import Adapter, Run, count_parameters, trainable
from luthier.config import RunConfig
from luthier.data.loader import Loader, LoaderLike
from luthier.data.pack import Batch, Example
from luthier.data.processor import Prepared
from luthier.data.store import identities_of
from luthier.data.stream import Rendering, Stream, StreamLoader
from luthier.distributed.single import SingleStrategy
from luthier.distributed.strategy import Strategy
from luthier.errors import ModelError, OutOfMemory
from luthier.evaluate.evaluator import EvaluatorLike
from luthier.inference.hf import HfEngine
from luthier.kernels import native
from luthier.models.faster import quicken
from luthier.models.find import find
from luthier.models.load import ModelLoaderLike
from luthier.models.output import Forward, Output, add_value_head
from luthier.models.recompute import recompute_layers
from luthier.models.reference import frozen, with_reference
from luthier.objectives.base import Objective
from luthier.objectives.online import Online
from luthier.registry.index import place_of
from luthier.rollout.rewards import Reward
from luthier.rollout.source import Rollouts
from luthier.system.hardware import choose_precision, free_memory, held_memory_bytes, is_out_of_memory, memory_limit
from luthier.train.check import Finding, Ready, Report
from luthier.train.checkpoint import Checkpoints, Trained
from luthier.train.fit import Fit, choose, measure
from luthier.train.optim.base import OptimizerSettings
from luthier.train.optim.groups import parameter_groups
from luthier.train.proof import check_model, check_optimizer, check_training
from luthier.train.scaling import LossScaler
from luthier.train.schedule import Schedule
from luthier.train.state import State, seed_everything
from luthier.train.step import Job, statistics
from luthier.units import Duration

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class Assembly:
    """One run on one rank."""

    def __init__(
        self,
        config: RunConfig,
        ready: Ready,
        strategy: Strategy,
        *,
        models: ModelLoaderLike,
        evaluator: EvaluatorLike,
    ) -> None:
        self.config, self.ready, self.strategy = config, ready, strategy
        self.models, self.evaluator = models, evaluator
        self.findings: list[Finding] = []
        self.kernels: list[str] = []
        """Those in use."""
        self.adapter = cast(Adapter, config.adapter)
        self.objective = cast(Objective, config.objective)
        self.precision = choose_precision(config.train.precision, strategy.device.type)
        halves = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
        self.dtype = "float32" if self.adapter.trains_base else halves[self.precision]

    def job(self, *, restart: bool = False, only: list[Example] | None = None) -> Job:
        """Everything the loop needs, placed on the devices; of the training rows `only` these, and none held out."""
        config, strategy, needs = self.config, self.strategy, self.objective.needs
        seed_everything(config.train.seed, rank=0)  # the same new weights on every rank
        proves_cut = strategy.cut and strategy.answers
        late = proves_cut and self.adapter.trains_base and not needs.reference  # which is asked as it will be trained
        dtype = "auto" if late else self.dtype
        base = self.models.load(config.model, dtype=dtype, scores=needs.scores, bits=self.adapter.base_bits)
        virtual = self.adapter.virtual_tokens
        answer = self.objective.max_new_tokens if isinstance(self.objective, Online) else 0
        taken = {"virtual_tokens": virtual, "answer_tokens": answer}
        self._found(check_model(base, self.ready.data, self.ready.layout, **taken))
        total_steps = self._total_steps(self._rows(self.ready.data))
        data = self.ready.data if only is None else replace(self.ready.data, train=only, held_out=[])
        data = self._asked(base, _companioned(self.objective, data))
        rows = self._rows(data)
        passes = _passes(rows) * total_steps if only is None else 0  # a job to look at measures as little as can be
        model = self._adapted(base, rows, total_steps, passes, restart=restart, widened=not late)
        forward = Forward(model, self.precision, embedding_noise=needs.embedding_noise, teacher=self._teacher)
        if not strategy.cut:
            model.to(strategy.device)
        if not proves_cut:
            self._found(check_training(model, forward, data.train, self.ready.layout))
        parameters = count_parameters(model)
        wrapped = strategy.prepare(model, forward.around)
        if late:
            model.float()
        if proves_cut:
            with strategy.asked(model):
                self._found(check_training(model, forward, data.train, self.ready.layout))
        decays = {"weight_decay": config.train.weight_decay, "layer_decay": config.train.layer_decay}
        groups = parameter_groups(model, self.adapter, **decays)
        optimizer = cast(OptimizerSettings, config.train.optimizer).build(groups)
        self._found(check_optimizer(model, optimizer))
        optimizer = strategy.adopt(model, optimizer)
        scaler = LossScaler(strategy.device.type) if self.precision == "fp16" else None
        seed_everything(config.train.seed, rank=strategy.share)
        loader, evaluate = self._loader(model, forward, data, rows, looked_at=only is not None)
        return Job(
            model=wrapped,
            trained=Trained(model, self.ready.renderer.tokenizer, self.adapter, optimizer, strategy, loader, scaler),
            forward=forward,
            objective=self.objective,
            loader=loader,
            settings=config.train,
            schedule=cast(Schedule, config.train.schedule),
            state=State(),
            total_steps=total_steps,
            evaluate_every=in_steps(config.train.evaluate_every, loader),
            evaluate=evaluate if data.held_out else None,
            observers=(),
            parameters=parameters,
        )

    def _found(self, findings: list[Finding]) -> None:
        """Keep them; refuse to go on where one is an error."""
        self.findings += findings
        Report(findings, []).require_no_errors()

    def fit(self, most_bytes: int | None = None) -> Fit | None:
        """Build a job over a few of its rows and, with `most_bytes`, make steps of them; both are thrown away.

        Raises:
            CheckFailed: it must not be trained; `findings` say why.
            OutOfMemory: the model, or the smallest step, takes more than `most_bytes`.
        """
        import matplotlib.figure  # noqa: F401 - the end of a run draws, beside what training left in memory

        rows = self._rows(self.ready.data)
        steps = self._total_steps(rows)
        chosen, process = choose(rows, steps=steps), held_memory_bytes()
        try:
            with memory_limit(most_bytes) if most_bytes else nullcontext():
                job = self.job(restart=True, only=chosen.rows)
                return measure(job, chosen, process=process, steps=steps) if most_bytes else None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"the model does not fit into memory: {error}") from error

    def _total_steps(self, rows: Loader) -> int:
        """Optimizer steps of the whole run."""
        if self.config.data.streaming:
            return self.config.train.max_steps or 0  # which is required
        each = self.objective.updates if isinstance(self.objective, Online) else 1
        epochs = max(1, -(-int(self.config.train.epochs * 1e6) * rows.steps_per_epoch * each // 1_000_000))
        return min(epochs, self.config.train.max_steps or epochs)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Where the run is kept."""
        return Checkpoints(Path(self.config.output.dir), keep=self.config.output.keep)

    # ---- model -------------------------------------------------------------------------------------------------

    def _adapted(
        self,
        base: PreTrainedModel,
        rows: Loader,
        total_steps: int,
        micro_batches: int,
        *,
        restart: bool,
        widened: bool,
    ) -> PreTrainedModel:
        """The model with what is trained of it."""
        tuned = place_of(self.config.model.path)
        run = Run(
            total_steps=total_steps,
            micro_batches=micro_batches,
            calibrate=lambda model: self._calibrate(model, rows),
            checkpoint=(lambda: None) if restart else self.checkpoints.newest,
            start=tuned if (tuned / "adapter_config.json").is_file() else None,
            widened=widened,
        )
        model = self.adapter.attach(base, run)
        if not trainable(model):
            raise ModelError(f"adapter ({self.adapter.type}): no weight of this model would be trained")
        model.zero_grad(set_to_none=True)  # of what it measured
        if self.objective.needs.values:
            add_value_head(model)
        if self.config.train.gradient_checkpointing:
            recompute_layers(model, every=int(self.config.train.gradient_checkpointing))
        wanted = self.config.train.kernels
        if self.strategy.device.type == "cpu" and not self.strategy.cut and wanted != "plain":
            # or what is learnt would depend on who has a compiler
            lacking = self.strategy.any(native.library() is None)
            self.kernels = quicken(model, wanted, helpers=not lacking)
        return model

    def _calibrate(self, model: Any, rows: Loader) -> Iterator[None]:
        """What `Run.calibrate` promises. All ranks see all rows, so that they come to the same conclusions.

        In evaluation mode no layer is computed again: where that is to save memory, micro-batches are smaller here.

        Raises:
            OutOfMemory: a micro-batch does not fit.
        """
        layout = rows.layout if rows.layout.packing else replace(rows.layout, rows=1)  # no padding
        if self.config.train.gradient_checkpointing:
            layout = replace(layout, tokens=layout.tokens // 4, rows=layout.rows and max(layout.rows // 4, 1))
        alone = Loader(rows.examples, batch_size=rows.batch_size, seed=rows.seed, layout=layout)
        model.to(self.strategy.device)
        forward = Forward(model, self.precision, teacher=self._teacher)
        for step in alone.steps():
            noted = statistics(self.objective, forward, model, step, SingleStrategy(self.strategy.device))
            for batch in step.micro_batches:
                try:
                    self._passed(model, forward, replace(batch, step=noted).to(self.strategy.device))
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    raise OutOfMemory(
                        f"out of memory while adapter ({self.adapter.type}) measured the training rows, "
                        f"{batch.ids.numel()} tokens at once; a smaller train.micro_batch_tokens or data.max_length "
                        "helps, or one that measures nothing, such as adapter.rank: 8"
                    ) from error
                yield

    def _passed(self, model: Any, forward: Forward, batch: Batch) -> None:
        """One pass, and back where gradients are asked for."""
        import torch

        model.zero_grad(set_to_none=True)
        output = forward(model, batch)
        if torch.is_grad_enabled():
            total, _ = self.objective.loss(output, batch)
            (total / max(self.objective.units(batch), 1)).backward()  # type: ignore[no-untyped-call]

    @cached_property
    def _teacher(self) -> Callable[[Batch], Output] | None:
        """What answers each batch beside the model, where the objective asks for a teacher.

        Raises:
            ModelError: its tokenizer is another one, so its distributions are over other tokens.
        """
        config = self.objective.needs.teacher
        if config is None:
            return None
        theirs = self.models.renderer(config).tokenizer
        if theirs.get_vocab() != self.ready.renderer.tokenizer.get_vocab():
            raise ModelError(
                f"objective.teacher: {config.path} has another vocabulary than the model; take one of its family"
            )
        return frozen(self.models.load(config, dtype=self.dtype).to(self.strategy.device), self.precision)

    # ---- data --------------------------------------------------------------------------------------------------

    def _asked(self, model: PreTrainedModel, data: Prepared) -> Prepared:
        """The rows and their companions with what the model says before it is trained, where the objective asks."""
        if not self.objective.needs.reference:
            return data
        model.to(self.strategy.device)
        forward = Forward(model, self.precision)

        def said(examples: Sequence[Example]) -> Sequence[Example]:
            return with_reference(model, forward, examples, self.ready.layout, self.strategy)

        def both(examples: Sequence[Example]) -> Sequence[Example]:
            beside = [example.companion for example in examples if example.companion]
            if not beside:
                return said(examples)
            return [replace(e, companion=other) for e, other in zip(said(examples), said(beside), strict=True)]

        return replace(data, train=both(data.train), held_out=both(data.held_out))

    def _rows(self, data: Prepared) -> Loader:
        """The order of the training rows, and this rank's share of them."""
        train, layout = self.config.train, self.ready.layout
        ranks = {"rank": self.strategy.share, "ranks": self.strategy.shares, "multiple": self.strategy.micro_batches}
        return Loader(data.train, batch_size=train.batch_size, seed=train.seed, layout=layout, **ranks)

    def _loader(
        self, model: PreTrainedModel, forward: Forward, data: Prepared, rows: Loader, *, looked_at: bool
    ) -> tuple[LoaderLike, Callable[[], Mapping[str, float]]]:
        """Where the steps come from, and how the held-out rows are measured."""
        if not isinstance(self.objective, Online):
            own: LoaderLike = rows
            if self.config.data.streaming and not looked_at:
                held_out = {identity for identity, _ in identities_of(data.held_out)}
                stream = Stream(self.config.data, seed=self.config.train.seed, held_out=held_out)
                own = StreamLoader(rows, Rendering(stream, self.ready.renderer, self.objective))
            return own, lambda: self._measured(model, forward, data.held_out, rows)
        rewards = [cast(Reward, reward) for reward in self.objective.rewards]
        rollouts = Rollouts(
            rows,
            HfEngine(model, self.ready.renderer),
            self.objective,
            [(reward.weight, reward.open(self.models)) for reward in rewards],
            self.strategy,
            ask=self._answer_columns(self.objective, model, forward),
        )
        return rollouts, lambda: rollouts.measure(data.held_out)

    def _measured(
        self, model: PreTrainedModel, forward: Forward, held_out: Sequence[Example], rows: Loader
    ) -> Mapping[str, float]:
        """What held-out rows say, cut as the training rows are; both smaller where memory does not suffice."""
        while True:
            try:
                found = self.evaluator.loss(
                    model, forward, self.objective, held_out, rows.layout, strategy=self.strategy
                )
                if self.config.train.best_metric in found:
                    return found
                return found | self.evaluator.answers(model, self.ready.renderer, held_out, self.config.evaluate)
            except Exception as error:
                if not is_out_of_memory(error) or not rows.halve(held_out):
                    raise
            free_memory(self.strategy.device)

    def _answer_columns(
        self, objective: Online, model: Any, forward: Forward
    ) -> Callable[[Batch], Mapping[str, Tensor]] | None:
        """What is asked about answers once they are drawn: under this policy, and under the one before training."""
        reference = self._before_training(model, forward) if objective.beta else None
        old = objective.updates > 1 or objective.needs.values
        if not old and reference is None:
            return None

        def ask(batch: Batch) -> dict[str, Tensor]:
            found = {}
            if old:
                output = forward(model, batch)
                found["old"] = objective.said(output, batch)
                if objective.needs.values:
                    found["value"] = output.values(batch.targets)
            if reference is not None:
                found["reference"] = objective.said(reference(batch), batch)
            return found

        return ask

    def _before_training(self, model: Any, forward: Forward) -> Callable[[Batch], Output]:
        """The model with its adapter off; a second copy where that is not what training started from."""
        from peft import PeftModel

        if not isinstance(model, PeftModel) or find(self.config.model.path).adapter is not None:
            return frozen(
                self.models.load(self.config.model, dtype=self.dtype).to(self.strategy.device), self.precision
            )

        def answer(batch: Batch) -> Output:
            with model.disable_adapter():
                return forward(model, batch)

        return answer


def _companioned(objective: Objective, data: Prepared) -> Prepared:
    """The rows with their companions, where the objective takes statistics of any."""

    def both(examples: Sequence[Example]) -> Sequence[Example]:
        beside = objective.companions(examples)
        return examples if beside is None else [replace(e, companion=b) for e, b in zip(examples, beside, strict=True)]

    return replace(data, train=both(data.train), held_out=both(data.held_out))


def _passes(rows: Loader) -> int:
    """Micro-batches of a typical step."""
    counts = [len(rows.micro_batches(chosen)) for chosen, _, _ in islice(rows.picks(), 4)]
    return max(1, sum(counts) // max(len(counts), 1))


def in_steps(every: Duration | None, loader: LoaderLike) -> int | None:
    """How many optimizer steps a duration is."""
    if every is None:
        return None
    return every.steps(steps_per_epoch=loader.steps_per_epoch, tokens_per_step=loader.tokens_per_step)

"""Will it fit, and how long will it take: a few real steps of a run, its largest among them, before it begins.

What it does: picks the rows of the run's largest step and of typical ones, makes those steps with the run's own job,
and reads the process's high-water mark. Where memory ends before the largest step is done, what that would take is
extrapolated from a smaller one.
What it must not do: change the run. The job it is given is thrown away afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from luthier.data.loader import Loader
from luthier.data.pack import Example, plan
from luthier.data.store import extreme
from luthier.errors import OutOfMemory
from luthier.kernels.logprobs import CHUNK_POSITIONS
from luthier.objectives.online import Online
from luthier.system.hardware import is_out_of_memory, peak_memory_bytes, restart_peak_memory
from luthier.train.memory import held
from luthier.train.state import State
from luthier.train.step import Job, run_step

SEEN_STEPS = 200
"""Steps of the first epoch that are looked at."""
MICRO_BATCHES = 3
"""Micro-batches at most of a step that is made here; gradients are all there from the second on."""
SMALL = 1 / 4
"""Tokens of the small step, as a share of the largest."""
HOLES = 1.04
"""What is added to the activations for steps that are not made here, since freed memory is not always of use. An
estimate: without it, peaks of ten steps were 3 % below to 8 % above what was said (benchmarks.prediction)."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows of a run, and steps as places in them: a small and the largest one for memory, others for time.

    Tokens are counted as they are computed, padding included: of the small step, of the largest forward pass of the
    run, and of a mean step.
    """

    rows: list[Example]
    small: list[int]
    largest: list[int]
    timed: list[list[int]]
    small_tokens: int
    largest_tokens: int
    tokens_per_step: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What a run takes of one device: bytes at its peak, by part, and seconds.

    `process` is what was there before the model: interpreter, libraries, rows. `activations` are what the others leave
    of the peak: they, the working memory of a step, and other models where there are some. `loading` is the peak before
    the first step. `measured` is false where memory ended before the largest step was done; then activations are
    extrapolated from a smaller one.
    """

    process: int
    weights: int
    gradients: int
    optimizer: int
    logits: int
    activations: int
    loading: int
    largest_tokens: int
    steps: int
    seconds_per_step: float | None
    measured: bool

    @property
    def peak(self) -> int:
        """Bytes held at once, at most."""
        return max(self.loading, sum(size for _, size in self.parts()))

    def parts(self) -> list[tuple[str, int]]:
        """Name and bytes of each part."""
        names = ("process", "weights", "gradients", "optimizer", "logits", "activations")
        return [(name, getattr(self, name)) for name in names]


# ---- which steps ------------------------------------------------------------------------------------------------


def choose(loader: Loader, *, steps: int) -> Chosen:
    """What says how the `steps` of a run are.

    Where there will be others than those looked at, the longest row is taken to come together with the first ones.
    """
    looked = []
    for rows, _, after in islice(loader.picks(), SEEN_STEPS):
        looked.append(_groups(loader, rows))
        if after[1] == 0:  # the end of the epoch
            break
    possible = list(looked)
    if steps > len(looked):
        longest = max(extreme(loader.examples, longest=True), key=loader.layout.size)
        possible.append(_groups(loader, [longest, *next(loader.picks())[0][1:]]))
    largest = max(possible, key=lambda groups: _tokens(loader, groups[0]))
    tokens = [sum(_tokens(loader, group) for group in groups) for groups in looked]
    mean, most = sum(tokens) / len(tokens), _tokens(loader, largest[0])
    usual = sorted(range(len(looked)), key=lambda i: abs(tokens[i] - mean))[:2]
    small = _small(loader, SMALL * most)
    timed = [looked[usual[0]][:1], *(_spread(looked[i]) for i in usual)]
    wanted = [small, _joined(largest[:MICRO_BATCHES]), *map(_joined, timed)]
    rows_of = {id(row): row for row in _joined(wanted)}
    places = {key: place for place, key in enumerate(rows_of)}
    first, second, *others = [[places[id(row)] for row in step] for step in wanted]
    return Chosen([*rows_of.values()], first, second, others, _tokens(loader, small), most, mean)


def _joined(groups: Sequence[Sequence[Example]]) -> list[Example]:
    return list(chain.from_iterable(groups))


def _groups(loader: Loader, rows: Sequence[Example]) -> list[list[Example]]:
    """The rows of each micro-batch, the largest first."""
    shares = plan([loader.layout.size(row) for row in rows], loader.layout, ranks=1)[0]
    return sorted(([rows[i] for i in group] for group in shares), key=lambda group: -_tokens(loader, group))


def _tokens(loader: Loader, group: Sequence[Example]) -> int:
    """What a forward pass over these rows computes."""
    sizes = [loader.layout.size(row) for row in group]
    return sum(sizes) if loader.layout.packing else len(sizes) * max(sizes, default=0)


def _small(loader: Loader, tokens: float) -> list[Example]:
    """Short rows, at least one, that make one micro-batch of about so many tokens."""
    chosen: list[Example] = []
    for row in sorted(extreme(loader.examples, longest=False), key=loader.layout.size)[: loader.layout.rows]:
        if chosen and _tokens(loader, [*chosen, row]) > tokens:
            break
        chosen.append(row)
    return chosen


def _spread(groups: Sequence[list[Example]]) -> list[list[Example]]:
    """A few micro-batches of a step, large and small."""
    return list(groups[:: -(-len(groups) // MICRO_BATCHES)])


# ---- what they take -----------------------------------------------------------------------------------------------


def measure(job: Job, chosen: Chosen, *, process: int, steps: int) -> Fit:
    """Make the chosen steps of a job over the chosen rows.

    `process` is what this process held before the job was there, `steps` what the whole run has.

    Raises:
        OutOfMemory: not even the small step fits.
    """
    job = replace(job, evaluate=None, observers=())
    loading = peak_memory_bytes()
    restart_peak_memory()
    seconds, small, largest = None, 0, chosen.largest_tokens
    try:
        if isinstance(job.objective, Online):
            seconds, largest = _drawn(job, job.objective.updates)
        else:
            _make(job, chosen.small)
            small = peak_memory_bytes()
            _make(job, chosen.largest)
            seconds = _seconds(job, chosen)
            _make(job, chosen.largest)  # once more, among what the others left: freed memory is not always of use
    except Exception as error:
        if not (is_out_of_memory(error) or isinstance(error, OutOfMemory)):
            raise
        if not small:
            parts = held(job.trained.model, job.trained.optimizer)
            raise OutOfMemory(f"not even the smallest step fits into memory ({parts}): {error}") from error
    parts = held(job.trained.model, job.trained.optimizer)
    fixed = process + parts.weights + parts.gradients + parts.optimizer
    if seconds is None:
        logits = _logits_bytes(job, chosen.small_tokens)
        activations = int(max(small - fixed - logits, 0) * largest / chosen.small_tokens)
    else:
        logits = _logits_bytes(job, largest)
        activations = int(HOLES * max(peak_memory_bytes() - fixed - logits, 0))
    return Fit(
        process=process,
        weights=parts.weights,
        gradients=parts.gradients,
        optimizer=parts.optimizer,
        logits=_logits_bytes(job, largest),
        activations=activations,
        loading=loading,
        largest_tokens=largest,
        steps=steps,
        seconds_per_step=seconds,
        measured=seconds is not None,
    )


def _make(job: Job, places: Sequence[int]) -> tuple[int, float]:
    """Make one step; the tokens that were computed and the seconds that it took."""
    assert isinstance(job.loader, Loader)
    step = job.loader.step([job.loader.examples[place] for place in places])
    started = time.perf_counter()
    run_step(job, State(), step)
    return sum(batch.ids.numel() for batch in step.micro_batches), time.perf_counter() - started


def _seconds(job: Job, chosen: Chosen) -> float:
    """Of a mean step: from a few micro-batches to all of them by what further ones add."""
    (fewer, quick), *others = [_make(job, places) for places in chosen.timed]
    tokens = sum(tokens for tokens, _ in others) / len(others)
    seconds = sum(seconds for _, seconds in others) / len(others)
    added = seconds / tokens  # at most: what a step costs by itself is not less than nothing, however noisy the clock
    if tokens > fewer and seconds > quick:
        added = min(added, (seconds - quick) / (tokens - fewer))
    return seconds + added * (chosen.tokens_per_step - tokens)


def _drawn(job: Job, updates: int) -> tuple[float, int]:
    """Seconds of a mean step, drawing the answers included (a first set is there to warm up), and the most tokens."""
    steps = job.loader.steps()
    started, largest = 0.0, 0
    for _ in range(2):
        started = time.perf_counter()
        for step in islice(steps, updates):
            run_step(job, State(), step)
            largest = max(largest, *(batch.ids.numel() for batch in step.micro_batches))
    return (time.perf_counter() - started) / updates, largest


def _logits_bytes(job: Job, tokens: int) -> int:
    """Of the positions whose logits are held at once, in float32; a head that does more keeps all, and their slopes."""
    if job.forward.scoring:
        return 0
    plain = job.forward.plain_head
    return (min(tokens, CHUNK_POSITIONS) if plain else 3 * tokens) * job.forward.head.weight.shape[0] * 4

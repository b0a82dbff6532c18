"""The models of a server by their names, and the one thread in which they answer."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

from luthier.config import ModelConfig
from luthier.errors import LuthierError, ModelError, UserError

if TYPE_CHECKING:
    from luthier.data.render import Renderer
    from luthier.inference.batching import Answer
    from luthier.models.load import ModelLoader
    from luthier.server.requests import Generated


class Busy(LuthierError):
    """All slots and places of the queue are taken."""


class Unknown(UserError):
    """No model of that name."""


class Models:
    """A base with its adapters. Answers are made in a thread of its own; everything here may be called from others."""

    def __init__(self, path: str, loader: ModelLoader, *, slots: int, queue: int) -> None:
        from luthier.inference.batching import BASE, Batcher
        from luthier.inference.hf import HfEngine
        from luthier.models.find import find

        config, self.loader, self.found = ModelConfig(path=path), loader, find(path)
        self.engine = HfEngine(loader.load_for_use(config), loader.renderer(config))
        self.engine.model.eval()
        self.batcher = Batcher(self.engine.model, int(self.engine.pad), slots=slots)
        short = Path(path).name
        self.name = short if Path(path).exists() and short != BASE else path
        self.served: dict[str, tuple[str, Renderer]] = {self.name: (BASE, self.engine.renderer)}
        if self.found.adapter is not None:
            below = loader.renderer(ModelConfig(path=self.found.location, revision=self.found.revision))
            self.served = {self.name: ("default", self.engine.renderer), BASE: (BASE, below)}
        text: Any = self.batcher.inner.config.get_text_config()
        self.window = int(getattr(text, "max_position_embeddings", None) or 2**20)
        self.vocabulary = int(self.batcher.inner.get_output_embeddings().weight.shape[0])
        self.places, self.taken = slots + queue, 0
        self.others: dict[str, dict[str, Any]] = {}
        """Encoders and reward models by kind and name."""
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed, self._closed = Condition(), False
        self._thread = Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def renderer(self, name: str) -> tuple[str, Renderer]:
        """The adapter behind a name and what renders for it; raises Unknown."""
        if name not in self.served:
            raise Unknown(f"no model {name!r} here; there are: {', '.join(sorted(self.served))}")
        return self.served[name]

    def submit(self, answers: Sequence[Answer]) -> None:
        """Have answers made, all or none of them; raises Busy."""
        with self._changed:
            if self._closed or self.taken + len(answers) > self.places:
                raise Busy("all slots and places of the queue are taken; try again in a second")
            self.taken += len(answers)
            for answer in answers:
                answer.tell = partial(self._told, answer.tell)
            self.batcher.waiting.extend(answers)
            self._changed.notify()

    def _told(self, tell: Callable[[Answer], object], answer: Answer) -> None:
        """The place of an answer is free before anybody hears of its end."""
        if answer.finish:
            with self._changed:
                self.taken -= 1
        tell(answer)

    def answers(self, asked: Generated, ids: list[int], longest: int, **how: Any) -> list[Answer]:
        """Answers to be made to one prompt; raises UserError for what cannot be."""
        from luthier.inference.batching import Answer
        from luthier.inference.hf import seeds_of
        from luthier.inference.sampling import Guide

        room = min(self.window - len(ids), longest)
        if room < 1 or not ids:
            raise UserError(f"the prompt has {len(ids)} tokens; from 1 to {self.window - 1} are possible")
        if (asked.longest or 0) > room:
            raise UserError(f"max_tokens: at most {room} tokens can follow this prompt")
        adapter, renderer = self.renderer(asked.model)
        sampling, tokenizer = asked.sampling(room, **how), renderer.tokenizer

        def one(seed: int) -> Answer:
            guide = Guide(sampling.schema, tokenizer, self.vocabulary) if sampling.schema else None
            return Answer(ids, sampling, seed, renderer, adapter=adapter, guide=guide)

        return [one(seed) for seed in seeds_of(sampling, asked.n or 1)]

    @property
    def names(self) -> list[str]:
        """All that can be asked."""
        return [*self.served, *(name for some in self.others.values() for name in some)]

    def of_kind(self, kind: str, name: str) -> Any:
        """An encoder or a reward model; raises Unknown."""
        found = self.others.get(kind, {})
        if name not in found:
            raise Unknown(f"no {kind} {name!r} here; there are: {', '.join(found) or 'none'}")
        return found[name]

    def load(self, name: str, folder: Path) -> None:
        """Serve an adapter that was tuned on this base; raises UserError."""
        from luthier.models.load import Readable, add_adapter

        if name in self.served or name == "default":
            raise UserError(f"{name}: there is a model of that name already")
        if not folder.is_dir():
            raise ModelError(f"{name}: {folder.name} is no folder")
        settings = folder / "adapter_config.json"
        try:
            stands_on = str(json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"])
        except (ValueError, LookupError, TypeError, OSError):
            raise ModelError(
                f"{name}: no adapter there: expected a folder with adapter_config.json that names its base"
            ) from None
        if stands_on != self.found.location and Path(stands_on).resolve() != Path(self.found.location).resolve():
            raise ModelError(f"{name}: was tuned on {stands_on}, and {self.found.location} is what is served")
        renderer = self.loader.renderer(ModelConfig(path=str(folder)))

        def add() -> None:
            try:
                with Readable(name):
                    model: Any = add_adapter(self.batcher.model, folder, name).eval()
            except ModelError:
                self._without(name)
                raise
            self.batcher.model, self.batcher.active = model, ""

        self._between_steps(add)
        self.served[name] = (name, renderer)

    def unload(self, name: str) -> None:
        """Forget an adapter when the answers that it is making are done; raises Unknown, UserError."""
        adapter, _ = self.renderer(name)
        if adapter != name:
            raise UserError(f"{name}: not an adapter that was loaded by name")
        del self.served[name]

        def remove() -> bool:
            under_way = [self.batcher.waiting, *(rows.answers for rows in self.batcher.running.values())]
            used = any(answer.adapter == adapter for some in under_way for answer in some)
            if not used:
                self._without(adapter)
            return used

        while self._between_steps(remove):
            pass

    def _without(self, name: str) -> None:
        """Take an adapter off the model, also one that came only half onto it."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        model: Any = self.batcher.model
        self.batcher.active = ""
        if len(getattr(model, "peft_config", ())) > 1:
            if name in model.peft_config:
                model.delete_adapter(name)
            return
        self.batcher.model = inner = self.batcher.inner
        vars(inner).pop("peft_config", None)  # which peft would go on with
        for place, layer in list(inner.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                inner.set_submodule(place, layer.get_base_layer())

    def close(self) -> None:
        """Stop answering."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _between_steps(self, job: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()
        with self._changed:
            self._jobs.append((job, done))
            self._changed.notify()
        return done.result()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._jobs or self.batcher.waiting or self.batcher.running):
                    self._changed.wait()
                if self._closed:
                    break
                job, done = self._jobs.popleft() if self._jobs else (None, None)
            if job is not None and done is not None:
                try:
                    done.set_result(job())
                except Exception as error:  # noqa: BLE001 - raised where it was asked for
                    done.set_exception(error)
            self.batcher.step()

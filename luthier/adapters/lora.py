"""LoRA: low-rank updates beside frozen weights (Hu et al. 2021, arXiv:2106.09685), through peft."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from luthier.adapters import lora_init, rank
from luthier.adapters.base import UNKNOWN_RUN, Learnt, Model, Run, peft_task
from luthier.adapters.peft_part import PeftPart, TargetModules
from luthier.config import RunConfig
from luthier.errors import ModelError

Start = Literal["default", "pissa", "olora", "eva", "orthogonal"]


class Lora(PeftPart):
    """Train two thin matrices beside each linear layer: W x + (alpha / rank) B A x."""

    type: Literal["lora", "qlora"] = "lora"
    rank: Annotated[int, Field(gt=0)] | Literal["auto"] = 8
    """Inner size of the two matrices; auto: measured for each layer on the first training rows, under `rank_budget`."""
    rank_budget: Annotated[int, Field(gt=0)] = 8
    """With `rank: auto`, as many parameters as this rank would have on every layer."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the update, divided by the rank; null: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the thin matrices."""
    target_modules: TargetModules = "all-linear"
    """Layers that get an update: all linear layers but the head, or names such as `[q_proj, v_proj]`."""
    modules_to_save: list[str] = Field(default=[])
    """Modules trained as a whole besides, for example `[embed_tokens, lm_head]`; they are saved with the adapter."""
    use_rslora: bool = False
    """Divide alpha by the root of the rank instead of the rank (rsLoRA, arXiv:2312.03732)."""
    use_dora: bool = False
    """Train the length of each weight column apart from its direction (DoRA, arXiv:2402.09353)."""
    init_lora_weights: Start = "default"
    """First values: A random and B zero; the largest singular parts of each weight (pissa, arXiv:2404.02948), its QR
    decomposition (olora, arXiv:2406.01775), the directions in which each layer's inputs vary most, which also decide
    how ranks are shared out (eva, arXiv:2410.07170), or orthogonal rows whose product is zero (orthogonal)."""
    eva_rho: Annotated[float, Field(ge=1)] = 2.0
    """Under eva, no layer gets more than this times `rank`; 1: all get `rank`."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of B divided by that of A (LoRA+, arXiv:2402.12354, which finds 16 good); null: the same."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 3e-3)
    config: ClassVar[str] = "LoraConfig"
    same: ClassVar[tuple[str, ...]] = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _no_fast_pissa(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("pissa_niter"):
            raise ValueError(
                "the fast decomposition of pissa is drawn at random, so that an adapter made with it does not fit its "
                "base when it is loaded again; write pissa"
            )
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        start = self.init_lora_weights
        if self.use_dora and start in lora_init.DISPLACED:
            raise ValueError(
                f"use_dora cannot start from {start}, because its lengths are those of an update that starts at zero"
            )
        if self.rank == "auto":
            if start != "default":
                raise ValueError(f"rank: auto measures its own first values; leave init_lora_weights out, not {start}")
        elif start == "orthogonal" and self.rank % 2:
            raise ValueError(f"init_lora_weights: orthogonal halves the rank, so it must be even; given: {self.rank}")
        return self

    # ---- attaching ---------------------------------------------------------------------------------------------

    def refusal(self, config: RunConfig) -> str | None:
        """Ranks are measured on what rows teach."""
        objective = cast(Learnt, config.objective)
        if self.rank == "auto" and objective.online:
            return (
                f"rank: auto measures gradients of rows, and those of {objective.type} have no answers; write rank: 8"
            )
        return None

    @property
    def usual_rank(self) -> int:
        """The rank of a layer of which nothing is known."""
        return self.rank_budget if self.rank == "auto" else self.rank

    @property
    def scale(self) -> float:
        """lora_alpha as peft counts it."""
        return 2.0 * self.usual_rank if self.alpha is None else self.alpha

    def peft_settings(self, model: Any, run: Run) -> Any:
        """A LoraConfig whose ranks are those of the run's newest checkpoint, where they were measured."""
        from peft import EvaConfig, LoraConfig

        eva = self.init_lora_weights == "eva"
        settings = LoraConfig(
            r=self.usual_rank,
            lora_alpha=self.scale,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            modules_to_save=list(self.modules_to_save) or None,
            ensure_weight_tying=bool(self.modules_to_save) and model.config.get_text_config().tie_word_embeddings,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            init_lora_weights=self.init_lora_weights if eva or self.init_lora_weights == "orthogonal" else True,
            eva_config=EvaConfig(rho=self.eva_rho) if eva else None,
            task_type=peft_task(model),
        )
        checkpoint = run.checkpoint() if eva or self.rank == "auto" else None
        return settings if checkpoint is None else lora_init.with_ranks_of(checkpoint, settings)

    def add(self, model: Any, settings: Any) -> Any:
        """The matrices, and whole modules where some are trained."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lora with eva initialization")  # of memory that it might save
            tuned = super().add(model, settings)
        self._require_modules(tuned)
        return tuned

    def go_on(self, model: Any, run: Run) -> Any:
        """Train the adapter that the model carries, and the same whole modules."""
        tuned = super().go_on(model, run)
        self._require_modules(tuned)
        return tuned

    def _require_modules(self, tuned: Any) -> None:
        """Refuse a model whose modules that are trained as a whole are not those of `modules_to_save`."""
        whole = lora_init.whole_modules(tuned)
        asked = {m: [p for n, p in whole.items() if n.endswith(m)] for m in self.modules_to_save}  # as peft asks
        for name, found in asked.items():
            if not found:
                raise ModelError(f"adapter.modules_to_save: the model has, or trains, no module {name}")
        wanted = {id(weight) for found in asked.values() for weights in found for weight in weights}
        for name, weights in whole.items():  # tied modules are one
            if peft_task(tuned.get_base_model()) == "SEQ_CLS" and name.endswith(("score", "classifier")):
                continue  # the new head of a model that scores, which peft always trains
            if not wanted.issuperset(map(id, weights)):
                raise ModelError(
                    f"the model carries an adapter that trains {name} as a whole; write it into "
                    "adapter.modules_to_save, or start from the base model"
                )

    def attach(self, model: Model, run: Run = UNKNOWN_RUN) -> Model:
        """Add the matrices and give them their first values, or go on with those that the model carries.

        Raises:
            ModelError: the model carries another adapter, or no layer has a name of `target_modules`.
        """
        from peft import PeftModel

        start = self.init_lora_weights
        if start not in lora_init.DISPLACED:
            tuned = super().attach(model, run)
            if self.rank == "auto":
                return self._measured(tuned, run, new=not isinstance(model, PeftModel))
            if start == "eva" and not isinstance(model, PeftModel) and run.checkpoint() is None:
                lora_init.eva(tuned, run)
            return tuned
        if isinstance(model, PeftModel):
            return self._go_on_displaced(model, run)
        tuned = super().attach(model, run)
        lora_init.displace(tuned, start if run.checkpoint() is None else None)
        return tuned

    def _measured(self, tuned: Any, run: Run, *, new: bool) -> Any:
        """Ranks and first values as the training rows ask for, or as a run that goes on has them."""
        known = run.checkpoint() if new else run.start
        if known is not None:
            rank.recall(tuned, known)
            return tuned
        found = rank.measure(tuned, run, rank=self.usual_rank)
        settings = self.peft_settings(tuned.get_base_model(), run)
        rank.into(settings, rank.choose(found, rank=self.usual_rank))
        tuned = self.add(tuned.unload(), settings)
        rank.begin(tuned, found)
        return tuned

    def _go_on_displaced(self, model: Any, run: Run) -> Any:
        """A saved difference of twice the rank becomes an update and the start that is taken away from it, again."""
        from peft import get_peft_model_state_dict

        given, wanted = model.peft_config[model.active_adapter], self.peft_settings(model.get_base_model(), run)
        if given.peft_type == "LORA" and given.r != 2 * self.usual_rank:
            raise ModelError(
                f"the model carries a lora adapter of rank {given.r}; one that began as {self.init_lora_weights} of "
                f"rank {self.usual_rank} is saved with rank {2 * self.usual_rank}: write init_lora_weights: default "
                f"and rank: {given.r}, or start from the base model"
            )
        self.require_same(lora_init.halved(given) if given.peft_type == "LORA" else given, wanted)
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        tuned = self.add(model.unload(), wanted)
        lora_init.displace(tuned, None)
        lora_init.load_displaced(tuned, weights, run.start or Path("the model"))
        return tuned

    def require_same(self, given: Any, wanted: Any) -> None:
        """As for every kind; which layers eva and auto took is measured, not asked for."""
        if self.init_lora_weights == "eva" or self.rank == "auto":
            wanted.target_modules = given.target_modules
        super().require_same(given, wanted)

    # ---- training and saving -----------------------------------------------------------------------------------

    def learning_rate_scale(self, name: str) -> float:
        """`loraplus_lr_ratio` for B."""
        return self.loraplus_lr_ratio or 1.0 if ".lora_B." in name else 1.0

    def save(self, model: Model, folder: Path) -> None:
        """As peft writes it; a displaced start as the difference that it makes, so that the base stays as it is."""
        if self.init_lora_weights in lora_init.DISPLACED:
            lora_init.save_displaced(model, folder)
        else:
            super().save(model, folder)
            if self.rank == "auto":
                rank.note(model, folder)

    def report(self, model: Any) -> str | None:
        """The measured ranks, layer by layer."""
        return rank.report(model) if self.rank == "auto" else None

    def load(self, model: Model, folder: Path) -> None:
        """Read adapter_model.safetensors back into the attached matrices."""
        if self.init_lora_weights in lora_init.DISPLACED:
            from safetensors.torch import load_file

            lora_init.load_displaced(model, load_file(folder / "adapter_model.safetensors"), folder)
        else:
            super().load(model, folder)

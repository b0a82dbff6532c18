"""What texts mean, as vectors: the mean of an encoder's last states (Reimers and Gurevych 2019, arXiv:1908.10084)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.distributed.strategy import pick_device
from luthier.errors import ModelError
from luthier.models.find import find
from luthier.models.load import Readable, require_every_weight

BATCH = 32
"""Windows of texts that are encoded at once."""


class Embedder:
    """An encoder and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, window: int) -> None:
        self.model, self.tokenizer, self.window = model, tokenizer, window

    @staticmethod
    @cache
    def load(path: str) -> Embedder:
        """The encoder of a folder, a hub id or a name of the catalogue; once in a process.

        Raises:
            ModelError: it cannot be found, or is no encoder.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        found = find(path)
        if found.kind == "gguf" or found.adapter:
            raise ModelError(f"{path}: not an encoder of sentences; use a folder of one, or minilm-l6-v2")
        with Readable(path):
            tokenizer = AutoTokenizer.from_pretrained(found.location, trust_remote_code=False)
            model, outcome = AutoModel.from_pretrained(
                found.location, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            require_every_weight(path, outcome, but=[key for key in outcome["missing_keys"] if "pooler" in key])
        places = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
        own = Path(found.location) / "sentence_bert_config.json"  # how long the texts were that it learnt from
        places += [json.loads(own.read_text(encoding="utf-8")).get("max_seq_length")] if own.is_file() else []
        return Embedder(model.to(pick_device()).eval(), tokenizer, min(place for place in places if place))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors `[N, D]` of length 1; their products are cosines. Of a long text, all windows are one mean."""
        told = self.tokenizer(
            list(texts) or [""], truncation=True, max_length=self.window, return_overflowing_tokens=True
        )
        ids, owners = told["input_ids"], told["overflow_to_sample_mapping"]
        sums = torch.zeros(len(texts), self.model.config.hidden_size)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i])) if texts else []
        for start in range(0, len(order), BATCH):
            group = order[start : start + BATCH]
            batch = self.tokenizer.pad({"input_ids": [ids[i] for i in group]}, return_tensors="pt")
            batch = batch.to(self.model.device)
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state.float()
            pooled = (states * batch["attention_mask"][..., None]).sum(1).cpu()
            sums.index_add_(0, torch.tensor([owners[i] for i in group]), pooled)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(sums, dim=1).numpy()
        return vectors

"""What translates: models of transformers, line by line, and Apertium's program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from luthier.errors import ModelError, UserError

BATCH = 32
"""Lines that are translated at once."""
BEAMS = 4
PATIENCE_SECONDS = 300
"""How long Apertium may take for a batch of texts."""
BETWEEN = "\u2063"
"""An invisible sign between texts: Apertium leaves it, and paragraphs of their own, as they are."""


class Translator:
    """A sequence-to-sequence model: MarianMT for one pair of languages, NLLB or M2M100 for many."""

    def __init__(self, path: str, source: str, target: str) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils import logging

        from luthier.distributed.strategy import pick_device
        from luthier.models.find import find
        from luthier.models.load import Readable, require_every_weight

        logging.disable_progress_bar()
        found = find(path)
        with Readable(path):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(found.location, trust_remote_code=False)
            model, outcome = AutoModelForSeq2SeqLM.from_pretrained(
                found.location, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            require_every_weight(path, outcome)
        self.model: Any = model.to(pick_device()).eval()
        self.first: dict[str, int] = {}
        if model.config.model_type != "marian":
            _, first = (self._language(path, name) for name in (source, target))
            self.tokenizer.src_lang, self.first = source, {"forced_bos_token_id": first}

    def _language(self, path: str, name: str) -> int:
        """The token of a language, which NLLB calls as it is, and M2M100 with lines around it."""
        token = name if name in self.tokenizer.all_special_tokens else f"__{name}__"
        found = int(self.tokenizer.convert_tokens_to_ids(token))
        if found == self.tokenizer.unk_token_id:
            raise ModelError(f"{path}: knows no language {name!r}; NLLB's are called eng_Latn, M2M100's en")
        return found

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Texts, translated; nothing where a line is longer than the model knows."""
        places = int(self.model.config.max_position_embeddings)
        lines = [line for line in dict.fromkeys(line for text in texts for line in text.split("\n")) if line.strip()]
        short = sorted((line for line in lines if len(self.tokenizer(line)["input_ids"]) <= places), key=len)
        found = dict.fromkeys(lines, "")
        for start in range(0, len(short), BATCH):
            found |= self._translated(short[start : start + BATCH], places)
        whole = (all(found.get(line, line) for line in text.split("\n") if line.strip()) for text in texts)
        return [
            "\n".join(found.get(line, line) for line in text.split("\n")) if every else ""
            for text, every in zip(texts, whole, strict=True)
        ]

    def _translated(self, lines: Sequence[str], places: int) -> dict[str, str]:
        import torch

        batch = self.tokenizer(lines, padding=True, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            ids = self.model.generate(**batch, **self.first, num_beams=BEAMS, max_length=places)
        said = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return dict(zip(lines, (one.strip() for one in said), strict=True))


class Apertium:
    """Rule-based translation by a program of the system."""

    def __init__(self, source: str, target: str) -> None:
        program, self.pair = shutil.which("apertium"), f"{source}-{target}"
        if program is None:
            raise UserError(f"by: apertium: it is not installed; on Debian: apt-get install apertium-{source}-{target}")
        self.program = program
        known = self._run("-l", given="").split()
        if self.pair not in known:
            raise UserError(f"by: apertium: no languages {self.pair}; installed: {', '.join(known) or 'none'}")

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Texts, translated; a word that is not known stays."""
        given = f"\n\n{BETWEEN}\n\n".join(text.replace(BETWEEN, "") for text in texts)
        parts = self._run("-u", self.pair, given=given).split(BETWEEN)
        found = [re.sub(r"(?<=\S) {2,}(?=\S)", " ", part.strip()) for part in parts]
        if len(found) != len(texts):
            raise ModelError(f"apertium {self.pair}: {len(found)} texts came back for {len(texts)}")
        return found

    def _run(self, *arguments: str, given: str) -> str:
        try:
            done = subprocess.run(
                [self.program, *arguments], input=given, capture_output=True, text=True, check=False,
                encoding="utf-8", timeout=PATIENCE_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ModelError(f"apertium {self.pair}: no answer in {PATIENCE_SECONDS} seconds") from None
        if done.returncode:
            raise ModelError(f"apertium {self.pair}: {done.stderr.strip() or done.returncode}")
        return done.stdout

"""What a model folder must not hold: anything that runs, or never ends, when it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.system.confined import confined

PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".msgpack", ".h5", ".keras"}
VOCABULARIES = {"tokenizer.json", "vocab.json"}
"""Where any text may stand as a token."""
TAG = re.compile(r"(?m)(?:^|[\s\[{,:-])!!?(?:python|[\w.]+/)[\w./:]*")
"""A YAML tag that names something to be made."""
SECONDS, PROBE = 10, [{"role": "user", "content": "Hello"}]


def require_safe(folder: Path, prompts: Sequence[Mapping[str, Any]] = ()) -> None:
    """Refuse a folder, or a .gguf file, before anything of it is loaded.

    Raises:
        ModelError: pickles, code that the library would offer to run, tags of YAML, or a chat template that does not
            come to its end, within limits of time and memory, on `prompts`.
    """
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not _of_a_checkpoint(folder, path)):
        name, kind = file.relative_to(folder), file.suffix.lower()
        if kind in PICKLED and not (file.name == "training_args.bin"):
            raise ModelError(f"{folder}: holds {name}, which could run code when opened; convert it to safetensors")
        if kind in (".yaml", ".yml") and TAG.search(file.read_text(encoding="utf-8", errors="replace")):
            raise ModelError(f"{folder}: {name} holds a YAML tag that makes objects; write it as plain values")
        if kind == ".json" and file.name not in VOCABULARIES and '"auto_map"' in file.read_text("utf-8", "replace"):
            raise ModelError(f"{folder}: {name} names code of its own (auto_map), which is never run; remove the key")
    for slot, template in _templates(folder):
        _require_ending(f"{folder}: {slot}", template, [{"messages": PROBE}, *prompts])


def _of_a_checkpoint(folder: Path, path: Path) -> bool:
    return path.relative_to(folder).parts[0].startswith(("checkpoint-", "."))


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    """Every chat template of a folder, in whichever slot it stands."""
    for file in sorted(folder.rglob("*.jinja")):
        yield str(file.relative_to(folder)), file.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        try:
            held = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{folder / name}: is not a JSON object: {error}") from None
        for one in held if isinstance(held, list) else [held]:
            template = one.get("template") if isinstance(one, dict) else one
            if template:
                yield name, str(template)
    for file in [folder] if folder.suffix == ".gguf" else folder.glob("*.gguf"):
        from gguf import GGUFReader

        field = GGUFReader(file).get_field("tokenizer.chat_template")
        if field is not None:
            yield file.name, str(field.contents())


def _require_ending(where: str, template: str, prompts: Sequence[Mapping[str, Any]]) -> None:
    """Render in a process of its own, which the system ends where it takes too long or too much."""
    asked = {"template": template, "prompts": [*prompts], "seconds": SECONDS}
    done = confined("luthier.export", "texts/render.py.txt", asked, seconds=SECONDS * 6)
    if done is None:
        raise ModelError(f"{where}: the chat template does not come to an end")
    status, _, errors = done
    if status:
        said = (errors.strip().splitlines() or ["it was ended"])[-1][:200]
        raise ModelError(f"{where}: the chat template takes too much time or memory, or breaks its sandbox: {said}")

"""Finding models: a folder, hub id, GGUF file, name of the catalogue or registry, output of a run. Loads nothing."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from luthier.config import ModelConfig
from luthier.errors import ModelError
from luthier.models.catalogue import entries
from luthier.plugins import suggestion
from luthier.registry.index import Registry, place_of
from luthier.registry.names import SCHEME
from luthier.tracking.run import RunFolder

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a model is. `adapter` is the folder of a tuned adapter that stands on the model."""

    kind: Literal["folder", "hub", "gguf"]
    location: str
    adapter: Path | None = None
    revision: str | None = None


def find(path: str) -> Found:
    """Resolve what the config calls a model, without loading it.

    Raises:
        ModelError: nothing is there, or what is there must not be loaded.
    """
    place = place_of(path)
    if place.is_dir():
        return _folder(place)
    if place.suffix == ".gguf":
        if not place.is_file():
            raise ModelError(f"{path}: no such file (looked at {place.absolute()})")
        return Found("gguf", str(place))
    models = {name: entry for name, entry in entries().items() if entry.parameters}
    if path in models:
        if not models[path].fetched:
            raise ModelError(f"{path} is not on this machine yet; fetch it once with: luthier models fetch {path}")
        return Found("folder", str(models[path].folder))
    if _HUB_ID.fullmatch(path) and not place.parent.is_dir():
        _require_hub(path, place)
        return Found("hub", path)
    raise ModelError(
        f"no model {path!r}: not a folder, a .gguf file or a hub id (owner/name); {suggestion(path, models)}"
    )


def pinned(model: ModelConfig) -> ModelConfig:
    """The model by the number of its version, where an alias named it, since that may move on."""
    named = Registry().version(model.path).uri if model.path.startswith(SCHEME) else model.path
    return model.model_copy(update={"path": named})


def _require_hub(path: str, place: Path) -> None:
    """A hub id also looks like a path: without the hub, the library would try for a minute before it says so."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type="model")
    proxied = any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ)
    if constants.HF_HUB_OFFLINE or proxied or cached.is_dir():
        return
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
    except OSError:
        raise ModelError(
            f"no model {path!r}: no such folder (looked at {place.absolute()}), and the model hub cannot be reached"
        ) from None


def _folder(place: Path) -> Found:
    if (place / "adapter_config.json").is_file():
        return _adapter(place)
    if not (place / "config.json").is_file():
        saved = sorted(place.glob("checkpoint-*"), key=lambda folder: (len(folder.name), folder.name))
        checkpoints = f" (it holds an unfinished run; what was saved of it is {saved[-1]})" if saved else ""
        raise ModelError(
            f"{place}: no config.json and no adapter_config.json, so this is not a model folder{checkpoints}"
        )
    if not list(place.glob("*.safetensors")):
        pickled = [*place.glob("*.bin"), *place.glob("*.pt"), *place.glob("*.pth")]
        why = (
            f"only {pickled[0].name}, which could run code when opened; convert it to safetensors"
            if pickled
            else "none"
        )
        raise ModelError(f"{place}: no weights to load: expected *.safetensors, found {why}")
    return Found("folder", str(place))


def _adapter(place: Path) -> Found:
    """A tuned adapter, and the model it stands on."""
    file = place / "adapter_config.json"
    base = revision = None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        base, revision = settings["base_model_name_or_path"], settings.get("revision")
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    if not isinstance(base, str) or not base:
        raise ModelError(f"{file}: expected JSON with base_model_name_or_path, the model that the adapter stands on")
    if not (place / ADAPTER_WEIGHTS).is_file():
        pickled = (place / "adapter_model.bin").is_file()
        why = (
            "only adapter_model.bin, which could run code when opened; convert it to safetensors" if pickled else "none"
        )
        raise ModelError(f"{place}: no weights to load: expected {ADAPTER_WEIGHTS}, found {why}")
    if (Path(base).expanduser() / "adapter_config.json").is_file():
        raise ModelError(f"{file}: base_model_name_or_path: {base} is an adapter itself, not the model under it")
    try:
        below = find(base)
    except ModelError as error:
        named = str(record_of(place).get("path"))  # a name of the catalogue outlives the folder it stood for
        if named not in entries() and not named.startswith(SCHEME):
            raise ModelError(f"{file}: base_model_name_or_path: {error}") from None
        below = find(named)
    return Found(below.kind, below.location, adapter=place, revision=revision)


def require_language(path: str, found: Found) -> None:
    """Refuse a reward model where texts are to be written."""
    place = Path(found.location if found.adapter is None else found.adapter)
    try:
        name = "config.json" if found.adapter is None else "adapter_config.json"
        settings = json.loads((place / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    kinds = [*(settings.get("architectures") or ()), settings.get("task_type") or ""]
    if any(kind.endswith(("ForSequenceClassification", "SEQ_CLS")) for kind in kinds):
        raise ModelError(f"{path}: a reward model, which scores answers and cannot write any")


def record_of(folder: Path, section: str = "model") -> dict[str, Any]:
    """What a run or one of its checkpoints says of the model it was trained from; empty for any other folder."""
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    record = RunFolder(run).record()
    return dict(record["config"].get(section, {})) if record else {}

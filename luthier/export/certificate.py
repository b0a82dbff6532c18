"""The certificate: what is served is what was trained.

For real prompts it holds what the model said as it was trained: the text that the template wrote, its ids, the greedy
answer, and at each of its tokens the log-probabilities of the likeliest ones. What is certified is then asked the same,
**through the code that is written beside it**. So a template, a tokenizer, a stop token, a scaling or a weight that
differs is seen by what it does, and a file by its hash.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.conversation import Content, Conversation, conversations
from luthier.errors import CertificateError, ModelError
from luthier.export.safety import require_safe
from luthier.inference.exported import code, opened
from luthier.supplies import shipped
from luthier.system.files import sha256_of, write_text

if TYPE_CHECKING:
    from luthier.data.render import Renderer

NAME = "certificate.json"
NEW_TOKENS, RUN_PROMPTS = 24, 4
"""Of an answer; at the end of a run."""
LIKELIEST, ASKED = 10, 64
"""Tokens kept of a place in an answer; asked for there of what is certified, where others may have become likely."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.gguf", "*.onnx", "*.onnx.data", "*.py", "Modelfile")
VARYING = {NAME, "run.json", "metrics.json", "rows.json", "environment.json", "export.json", "inputs.json"}
"""Of those, what a run, a registry or a library may write again."""
LIBRARIES = ("luthier", "torch", "transformers", "peft", "tokenizers", "onnxruntime", "xllamacpp", "gguf")


def reference(model: Any, renderer: Renderer, prompts: Sequence[Conversation]) -> list[dict[str, Any]]:
    """What a model says as it is trained, for `prompts`; an answer that one ends with is left out.

    Raises:
        CertificateError: training feeds other ids in front of an answer than chat does.
    """
    tokenizer, records = renderer.tokenizer, []
    live = code("hf")(None, model, tokenizer, renderer.stop_ids, renderer.options)
    for prompt in prompts:
        messages = prompt.messages[: len(prompt.messages) - (prompt.messages[-1].role == "assistant")]
        text, ids = renderer.prompt_text(messages, prompt.tools), renderer.prompt(messages, prompt.tools)
        taught = [one.ids.tolist() for one in renderer.conversation(prompt)] if messages != prompt.messages else [ids]
        if not any(sequence[: len(ids)] == ids for sequence in taught):
            told = _first_difference(taught[-1][: len(ids)], ids, live.decode)
            raise CertificateError(f"chat does not feed what training does: {told}")
        answer = list(live.generate(ids, NEW_TOKENS))
        asked = {"messages": [m.for_template() for m in messages], "tools": [*map(dict, prompt.tools)]}
        said = {"answer_ids": answer, "likeliest": live.top(ids, answer, LIKELIEST)}
        records.append(asked | {"text": text, "ids": ids} | said)
    return records


def of_run(folder: Path, model: Any, renderer: Renderer, held_out: Iterable[Content]) -> None:
    """Certify a finished run with its model in memory: what is loaded from the folder later must answer so.

    Not where the base was quantised, or nothing answers: its folder is loaded in full precision, another model.
    """
    quantised = getattr(model, "is_quantized", False)
    if model.get_output_embeddings() is None or quantised or not renderer.tokenizer.chat_template:
        return
    prompts = [told[0] for told in map(conversations, islice(held_out, RUN_PROMPTS)) if told]
    if prompts:
        kind = str(next(model.parameters()).dtype).removeprefix("torch.")
        told = {"runs_on": "hf", "tolerance": "exact" if kind == "float32" else kind, "about": {"format": "run"}}
        ends = {"versions": _versions(), "stop_ids": sorted(renderer.stop_ids)}
        write(folder, told | ends | {"prompts": reference(model, renderer, prompts)})


def certify(folder: Path, records: Sequence[Mapping[str, Any]], *, runs_on: str, tolerance: str, about: Any) -> Path:
    """Ask what is in a folder, and write its certificate where it answers as `records` say.

    Raises:
        CertificateError: it does not; nothing is written.
        ModelError: the folder holds something that might run when it is loaded.
    """
    told = {"runs_on": runs_on, "tolerance": tolerance, "about": about, "prompts": [*records]}
    told |= {"versions": _versions(), "stop_ids": None}
    findings, measured = _differences(folder, told)
    if findings:
        raise CertificateError(_listed(str(folder), findings))
    return write(folder, told | {"stop_ids": measured.pop("stop_ids"), "measured": measured})


def write(folder: Path, told: Mapping[str, Any]) -> Path:
    """A certificate with the hashes of all files that a model is loaded from."""
    hashes = {str(file.relative_to(folder)): sha256_of(file) for file in _files(folder)}
    write_text(folder / NAME, json.dumps({**told, "files": hashes}, ensure_ascii=False) + "\n")
    return folder / NAME


def read(folder: Path) -> dict[str, Any]:
    """The certificate of a folder; raises ModelError where there is none that can be read."""
    try:
        told = dict(json.loads((folder / NAME).read_text(encoding="utf-8")))
        told["files"], told["prompts"], told["tolerance"], told["runs_on"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{folder}: holds no {NAME} that can be read; luthier export writes one") from None
    return told


def verify(folder: Path) -> dict[str, Any]:
    """Whether a folder is still what its certificate says, and answers so; returns what was measured.

    Raises:
        CertificateError: every difference, each with its first token.
        ModelError: no certificate, or the folder holds something that might run when it is loaded.
    """
    told = read(folder)
    now = {str(file.relative_to(folder)): sha256_of(file) for file in _files(folder)}
    before = told["files"]
    words = {
        name: "is new" if name not in before else "is gone" if name not in now else "was changed"
        for name in now | before
    }
    findings = [f"{name} {words[name]}" for name in sorted(words) if now.get(name) != before.get(name)]
    try:
        drifts, measured = _differences(folder, told)
    except ModelError as error:
        drifts, measured = [str(error)], {}
    if findings or drifts:
        raise CertificateError(_listed(str(folder), findings + drifts))
    return measured


def _differences(folder: Path, told: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """What is asked of a folder's model, and says something else."""
    require_safe(folder, told["prompts"])
    model = opened(folder, told["runs_on"])
    found = sorted(model.stop_ids)
    findings = []
    if told["stop_ids"] not in (None, found):
        findings.append(f"answers end with the tokens {found}, in training with {told['stop_ids']}")
    limits, places = tolerances()[told["tolerance"]], []
    for number, record in enumerate(told["prompts"], 1):
        text = model.text(record["messages"], record["tools"])
        ids = model.encode(text)
        if text != record["text"]:
            at = next(
                (i for i, (a, b) in enumerate(zip(text, record["text"], strict=False)) if a != b),
                min(len(text), len(record["text"])),
            )
            findings.append(
                f"prompt {number}: the template writes {text[at : at + 40]!r} for {record['text'][at : at + 40]!r}"
            )
        if ids != record["ids"]:
            findings.append(f"prompt {number}: {_first_difference(record['ids'], ids, model.decode)}")
        if limits.get("same_text"):
            answer = [*model.generate(record["ids"], len(record["answer_ids"]))]
            if answer != record["answer_ids"]:
                findings.append(
                    f"prompt {number}, answer: {_first_difference(record['answer_ids'], answer, model.decode)}"
                )
        asked = model.top(record["ids"], record["answer_ids"], ASKED)
        places += [*zip(record["likeliest"], asked, strict=True)]
    measured = dict(_distances(places))
    for name, value in measured.items():
        worse = name in limits and (value < limits[name] if name == "top1" else not value <= limits[name])
        findings += [f"{name} is {value:.3g}, allowed is {limits[name]}"] if worse else []
    return findings, {"stop_ids": found, "prompts": len(told["prompts"]), **measured}


def _distances(places: Sequence[tuple[Any, Any]]) -> Iterator[tuple[str, float]]:
    """How far two models are from each other, at places where both say what is likely.

    The divergence is that of the likeliest tokens and of all others together, which is never more than the whole.
    """
    largest, divergence = 0.0, 0.0
    for trained, asked in places:
        there, least = {int(i): float(v) for i, v in asked}, min(float(v) for _, v in asked)
        pairs = [(float(v), there.get(int(i), least)) for i, v in trained]
        largest = max(largest, *(abs(p - q) for p, q in pairs))
        rest = [max(1 - sum(math.exp(pair[side]) for pair in pairs), 1e-12) for side in (0, 1)]
        divergence += sum(math.exp(p) * (p - q) for p, q in pairs) + rest[0] * math.log(rest[0] / rest[1])
    yield "log_probability", largest
    yield "kl", max(divergence, 0.0) / max(len(places), 1)
    yield "top1", sum(int(a[0][0]) == int(b[0][0]) for a, b in places) / max(len(places), 1)


def tolerances() -> dict[str, dict[str, float]]:
    """How far answers may differ, by precision."""
    return dict(shipped("luthier.export", "tolerances.yaml"))


def _first_difference(expected: Sequence[int], found: Sequence[int], decode: Any) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    here, there = (
        f"{decode([ids[at]], special=True)!r} ({ids[at]})" if at < len(ids) else "its end" for ids in (found, expected)
    )
    return f"token {at} is {here}, in training {there}"


def _files(folder: Path) -> list[Path]:
    """What a model is loaded from; not the checkpoints of a run."""
    found = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.name not in VARYING}
    return sorted(found | {*folder.glob("additional_chat_templates/*.jinja")})


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _listed(folder: str, findings: Sequence[str]) -> str:
    more = [f"  and {len(findings) - 12} more"] if len(findings) > 12 else []
    return "\n".join([f"{folder}: is not what was trained:", *(f"  {one}" for one in findings[:12]), *more])

"""Finding and loading models: what loads, and one sentence for everything that must not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.config import ModelConfig
from luthier.errors import ModelError
from luthier.kernels.attention import NAME
from luthier.models.find import find
from luthier.models.load import ModelLoader, Readable, packs
from tests.conftest import build_model
from tests.models.conftest import load, rewrite

IDS = torch.arange(3, 40)[None]


def rename_weights(file: Path, rename: Callable[[str], str | None]) -> None:
    """Rename tensors of a safetensors file; None removes one."""
    tensors = {new: tensor for name, tensor in load_file(file).items() if (new := rename(name)) is not None}
    save_file(tensors, file, metadata={"format": "pt"})


# ---- what loads ----------------------------------------------------------------------------------------------------


def test_a_folder(model: Path) -> None:
    loaded = load(model)
    assert find(str(model)).kind == "folder" and packs(loaded) and not loaded.training
    reference = build_model(loaded.config.vocab_size).eval()
    torch.testing.assert_close(loaded(IDS).logits, reference(IDS).logits)


@pytest.mark.parametrize("suffix", ["", "/"])
def test_the_output_of_a_run_stands_on_its_base(model: Path, adapter: Path, suffix: str) -> None:
    found = find(f"{adapter}{suffix}")
    assert (found.location, found.adapter) == (str(model), adapter)
    tuned = load(f"{adapter}{suffix}")
    assert not torch.allclose(tuned(IDS).logits, load(model)(IDS).logits, atol=0.1)
    assert torch.equal(tuned(IDS).logits, load(adapter)(IDS).logits)


def test_an_adapter_that_plain_peft_saved_with_the_embedding(adapter: Path, tmp_path: Path) -> None:
    load(adapter).save_pretrained(tmp_path / "plain", save_embedding_layers=True)
    assert (tmp_path / "plain" / "adapter_model.safetensors").stat().st_size > 90_000
    assert torch.equal(load(tmp_path / "plain")(IDS).logits, load(adapter)(IDS).logits)


def test_the_tokenizer_of_a_run_is_its_own(tokenizer: Any, model: Path, adapter: Path) -> None:
    config, loader = ModelConfig(path=str(adapter)), ModelLoader()
    assert loader.tokenizer(config).chat_template == tokenizer.chat_template  # the base's, where the run has none
    loader.tokenizer(ModelConfig(path=str(model))).save_pretrained(adapter)
    rewrite(adapter / "tokenizer_config.json", chat_template="own")
    (adapter / "chat_template.jinja").write_text("own")
    assert loader.tokenizer(config).chat_template == "own"


@pytest.mark.parametrize(
    ("setting", "default", "expected"),
    [
        ("auto", "float32", torch.float32),
        ("auto", "bfloat16", torch.bfloat16),
        ("bfloat16", "float32", torch.bfloat16),
        ("float16", "float32", torch.float16),
        ("float32", "bfloat16", torch.float32),
    ],
)
def test_dtype(tiny: Path, setting: Any, default: str, expected: torch.dtype) -> None:
    loaded = ModelLoader().load(ModelConfig(path=str(tiny), dtype=setting), dtype=default)
    assert {parameter.dtype for parameter in loaded.parameters()} == {expected}


@pytest.mark.parametrize("eos", [None, 2, [2, 0]])
def test_stop_ids(model: Path, eos: Any) -> None:
    rewrite(model / "generation_config.json", eos_token_id=eos)
    expected = {None: [], 2: [2]}.get(eos, eos) if not isinstance(eos, list) else eos
    assert ModelLoader().stop_ids(ModelConfig(path=str(model))) == expected


def test_stop_ids_without_a_generation_config(model: Path) -> None:
    (model / "generation_config.json").unlink()
    (model / "config.json").write_text("{}")
    assert ModelLoader().stop_ids(ModelConfig(path=str(model))) == []


def test_another_chat_template(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("mine")
    config = ModelConfig(path=str(tiny), chat_template=str(tmp_path / "mine.jinja"))
    assert ModelLoader().tokenizer(config).chat_template == "mine"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_chat_template_that_cannot_be_read(tiny: Path, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_bytes(content)
    fault = "no such file" if content is None else "cannot be loaded: 'utf-8' codec"
    with pytest.raises(ModelError, match=rf"model\.chat_template: {re.escape(str(file))}: {fault}"):
        ModelLoader().tokenizer(ModelConfig(path=str(tiny), chat_template=str(file)))


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, False),
        ("FalconH1", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}, False),
        ("Qwen3", {"head_dim": 8}, True),
        ("Gemma2", {"head_dim": 8}, False),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, True),
        (
            "Llama4",
            {"head_dim": 8, "attention_chunk_size": 4, "num_local_experts": 2, "intermediate_size_mlp": 32},
            False,
        ),
    ],
)
def test_only_attention_is_packed(kind: str, settings: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    """A convolution carries its state on; there is no kernel for soft-capped scores or attention in chunks."""
    import transformers

    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    config_class = getattr(transformers, f"{kind}TextConfig", None) or getattr(transformers, f"{kind}Config")
    config = config_class(**shape, **heads, **settings)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert packs(model) is expected
    assert (model.config._attn_implementation == NAME) is expected


# ---- what must not -------------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGED_MODELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json and no adapter_config.json"),
    "config cut off": (lambda f: cut(f / "config.json"), "cannot be loaded: .*not a valid JSON file"),
    "unknown kind": (lambda f: rewrite(f / "config.json", model_type="nope"), "cannot be loaded: .*model type `nope`"),
    "wrong value": (lambda f: rewrite(f / "config.json", hidden_size="x"), "cannot be loaded: .*hidden_size.*got str"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "expected .*safetensors, found none"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "found only pytorch_model.bin, which could run code when opened; convert it to safetensors",
    ),
    "pickled beside others": (
        lambda f: [(f / "model.safetensors").rename(f / "other.safetensors"), (f / "pytorch_model.bin").touch()],
        "cannot be loaded: .*no file named model.safetensors",
    ),
    "weights cut off": (lambda f: cut(f / "model.safetensors"), "cannot be loaded: .*incomplete"),
    "a weight missing": (
        lambda f: rename_weights(f / "model.safetensors", lambda n: None if "1.mlp.up_proj" in n else n),
        "1 weights are missing: model.layers.1.mlp.up_proj.weight",
    ),
    "other sizes": (
        lambda f: rewrite(f / "config.json", intermediate_size=64),
        r"6 weights have another shape than config.json says: .*down_proj.weight \[64, 128\], not \[64, 64\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED_MODELS)
def test_a_damaged_model_is_refused(model: Path, damage: str) -> None:
    act, message = DAMAGED_MODELS[damage]
    act(model)
    with pytest.raises(ModelError, match=f"^{re.escape(str(model))}: .*{message}") as caught:
        load(model)
    assert "\n" not in str(caught.value)


DAMAGED_ADAPTERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not JSON": (lambda f: cut(f / "adapter_config.json"), "expected JSON with base_model_name_or_path"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "expected JSON with base_model_name_or_path"),
    "not text": (lambda f: (f / "adapter_config.json").write_bytes(b"\xff"), "expected JSON with"),
    "no base": (lambda f: rewrite(f / "adapter_config.json", base_model_name_or_path=None), "expected JSON with"),
    "a number": (lambda f: rewrite(f / "adapter_config.json", base_model_name_or_path=7), "expected JSON with"),
    "itself": (
        lambda f: rewrite(f / "adapter_config.json", base_model_name_or_path=str(f)),
        "base_model_name_or_path: .*adapter is an adapter itself",
    ),
    "base gone": (
        lambda f: rewrite(f / "adapter_config.json", base_model_name_or_path="gone"),
        "base_model_name_or_path: no model 'gone'",
    ),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "expected adapter_model.safetensors, found none",
    ),
    "pickled": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        "found only adapter_model.bin, which could run code when opened",
    ),
    "weights cut off": (lambda f: cut(f / "adapter_model.safetensors"), "cannot be loaded: .*incomplete"),
    "a weight missing": (
        lambda f: rename_weights(f / "adapter_model.safetensors", lambda n: None if "1.mlp.up_proj.lora_A" in n else n),
        "does not fit its base model: 1 weights, .*layers.1.mlp.up_proj.lora_A",
    ),
    "a weight too many": (
        lambda f: rename_weights(f / "adapter_model.safetensors", lambda n: n.replace("layers.1", "layers.7")),
        "does not fit its base model: 28 weights",
    ),
    "unknown kind": (lambda f: rewrite(f / "adapter_config.json", peft_type="NOPE"), "cannot be loaded: .*NOPE"),
}


@pytest.mark.parametrize("damage", DAMAGED_ADAPTERS)
def test_a_damaged_adapter_is_refused(adapter: Path, damage: str) -> None:
    act, message = DAMAGED_ADAPTERS[damage]
    act(adapter)
    with pytest.raises(ModelError, match=f"^{re.escape(str(adapter))}.*: .*{message}") as caught:
        load(adapter)
    assert "\n" not in str(caught.value)


def test_an_adapter_on_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    build_model(400, hidden_size=32).save_pretrained(tmp_path / "small")
    rewrite(adapter / "adapter_config.json", base_model_name_or_path=str(tmp_path / "small"))
    with pytest.raises(ModelError, match=r"cannot be loaded: .*size mismatch"):
        load(adapter)


@pytest.mark.parametrize("known", [True, False], ids=["known kind", "kind of its own"])
def test_code_in_a_model_folder_never_runs(model: Path, tmp_path: Path, known: bool) -> None:
    canary = tmp_path / "canary"
    (model / "own.py").write_text(f"open({str(canary)!r}, 'w')")
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": [None, "own.Tokenizer"]}
    rewrite(model / "config.json", auto_map=names, model_type="llama" if known else "own")
    rewrite(model / "tokenizer_config.json", auto_map=names, tokenizer_class="Own")
    if known:
        load(model)  # by the library's own code
    else:
        with pytest.raises(ModelError, match=r"cannot be loaded: .*custom code"):
            load(model)
    with contextlib.suppress(ModelError):
        ModelLoader().tokenizer(ModelConfig(path=str(model)))
    assert not canary.exists()


@pytest.mark.parametrize("part", ["load", "tokenizer"])
def test_an_unknown_hub_model_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was used"))
    with pytest.raises(
        ModelError, match=r"^nobody/nothing: cannot be loaded: .*couldn't find them in the cached files"
    ):
        getattr(ModelLoader(), part)(ModelConfig(path="nobody/nothing"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("smollm2-135m-instrct", "did you mean 'smollm2-135m-instruct'?"),
        (
            "gone",
            "no model 'gone': not a folder, a .gguf file or a hub id (owner/name); allowed: minilm-l6-v2, smollm2",
        ),
        ("gone/too/deep", "no model 'gone/too/deep'"),
        ("gone.gguf", "gone.gguf: no such file (looked at /"),
    ],
)
def test_nothing_of_that_name(path: str, message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        find(path)


def test_a_catalogue_model_that_was_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="luthier models fetch smollm2-135m-instruct"):
        find("smollm2-135m-instruct")


def test_a_folder_of_checkpoints(tmp_path: Path) -> None:
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(ModelError, match=r"holds an unfinished run; what was saved of it is .*checkpoint-10\)$"):
        find(str(tmp_path))


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(ModelError, match="not a folder"):
        find(str(tmp_path / "model"))


def test_memory_that_ends_is_not_taken_for_an_unreadable_model() -> None:
    with pytest.raises(MemoryError), Readable("m"):
        raise MemoryError("no more")
    with pytest.raises(RuntimeError, match="out of memory"), Readable("m"):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(ModelError, match="m: cannot be loaded: torn"), Readable("m"):
        raise RuntimeError("torn")

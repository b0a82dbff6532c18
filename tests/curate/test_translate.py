"""Translators: tiny random models of transformers against their own plain use, and Apertium where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.curate import translate
from luthier.curate.rewrite import BackTranslation, questions_of
from luthier.curate.translate import Apertium, Translator
from luthier.errors import ModelError, UserError
from tests.conftest import TEXT
from tests.curate.conftest import talk

SIZES = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 48,
    "init_std": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SentencePiece model and its vocabulary, as Marian and M2M100 keep them."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text.txt").write_text("\n".join(TEXT * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "source"), vocab_size=120, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    shutil.copy(folder / "source.model", folder / "source.spm")
    shutil.copy(folder / "source.model", folder / "target.spm")
    found = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.model"))
    words = [found.id_to_piece(n) for n in range(3, found.get_piece_size())]
    vocabulary = {word: n for n, word in enumerate(["</s>", "<unk>", *words, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    many = {word: n for n, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    (folder / "m2m.json").write_text(json.dumps(many))
    return folder


@pytest.fixture(scope="module")
def marian(pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    tokenizer = MarianTokenizer(str(pieces / "source.spm"), str(pieces / "target.spm"), str(pieces / "vocab.json"))
    pad, size = tokenizer.pad_token_id, len(tokenizer)
    torch.manual_seed(0)
    config = MarianConfig(vocab_size=size, pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, **SIZES)
    folder = tmp_path_factory.mktemp("marian")
    MarianMTModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def m2m(pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    tokenizer = M2M100Tokenizer(str(pieces / "m2m.json"), str(pieces / "source.model"))
    torch.manual_seed(0)
    config = M2M100Config(vocab_size=max(tokenizer.lang_code_to_id.values()) + 9, decoder_start_token_id=2, **SIZES)
    folder = tmp_path_factory.mktemp("m2m")
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plainly(translator: Translator, line: str) -> str:
    batch = translator.tokenizer(line, return_tensors="pt")
    ids = translator.model.generate(**batch, **translator.first, num_beams=4, max_length=48)
    return str(translator.tokenizer.decode(ids[0], skip_special_tokens=True)).strip()


def test_lines_are_translated_one_by_one_in_their_places(marian: Path) -> None:
    translator = Translator(str(marian), "en", "fr")
    one, two = plainly(translator, "weather in London"), plainly(translator, "a model")
    assert one and two and one != two
    assert translator(["weather in London\n\na model", "a model", ""]) == [f"{one}\n\n{two}", two, ""]


def test_what_is_too_long_is_not_cut(marian: Path) -> None:
    assert Translator(str(marian), "en", "fr")(["a model\n" + "London " * 60, "a model"])[0] == ""


def test_languages_of_a_model_of_many(m2m: Path) -> None:
    translator = Translator(str(m2m), "en", "fr")
    ids = translator.tokenizer("a model")["input_ids"]
    assert ids[0] == translator.tokenizer.get_lang_id("en")
    assert translator.first == {"forced_bos_token_id": translator.tokenizer.get_lang_id("fr")}
    assert translator(["a model"]) == [plainly(translator, "a model")]
    for pair in (("en", "xx"), ("xx", "en"), ("en", "London")):
        with pytest.raises(ModelError, match=f"knows no language '{'xx' if 'xx' in pair else 'London'}'; NLLB's"):
            Translator(str(m2m), *pair)


def test_there_and_back_by_models(marian: Path) -> None:
    own = BackTranslation(by="models", models=(str(marian), str(marian)), languages=("en", "fr"))
    translator = Translator(str(marian), "en", "fr")
    (made,) = own.build().make([talk("a model", "x")])
    assert questions_of(made.content) == translator(translator(["a model"]))


def test_what_is_no_translator(tiny: Path, encoder: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        Translator(str(tiny), "en", "fr")


def test_apertium_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="it is not installed; on Debian: apt-get install apertium-eng-spa"):
        Apertium("eng", "spa")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A program in place of Apertium's, as a script."""

    def make(script: str) -> None:
        file = tmp_path / "apertium"
        file.write_text(f'#!/bin/sh\n[ "$1" = -l ] && echo eng-spa && exit\n{script}\n')
        file.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda name: str(file))

    return make


def test_apertium_is_given_all_texts_at_once(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program("tr ab AB")
    translator = Apertium("eng", "spa")
    assert translator(["a  b\n\n  ab", "", "x\u2063y"]) == ["A B\n\n  AB", "", "xy"]
    with pytest.raises(UserError, match="no languages eng-fra; installed: eng-spa"):
        Apertium("eng", "fra")
    program("echo broken >&2; exit 3")
    with pytest.raises(ModelError, match="apertium eng-spa: broken"):
        translator(["a"])
    program("cat >/dev/null; echo one")
    with pytest.raises(ModelError, match="1 texts came back for 2"):
        translator(["a", "b"])
    monkeypatch.setattr(translate, "PATIENCE_SECONDS", 0.05)
    program("exec sleep 5")
    with pytest.raises(ModelError, match=r"no answer in 0\.05 seconds"):
        translator(["a"])


def _pairs() -> str:
    found = shutil.which("apertium")
    return subprocess.run([found, "-l"], capture_output=True, text=True, check=False).stdout if found else ""


@pytest.mark.slow
@pytest.mark.skipif("eng-spa" not in _pairs(), reason="apt-get install apertium apertium-eng-spa")
def test_the_real_apertium() -> None:
    own = BackTranslation(by="apertium", languages=("eng", "spa")).build()
    rows = [
        talk(question, "a")
        for question in ("How do I train a model?", "The **river** is `x=1`.\n\n- How do I train it?")
    ]
    made = {one.parent: questions_of(one.content)[0] for one in own.make(rows)}
    assert made[0].endswith("a model?") and "**river** is `x=1`.\n\n- " in made[1]

"""Silent errors of training, each planted as a careless contributor or user would, and who catches it.

| error                      | planted as                                      | caught by                             |
|----------------------------|-------------------------------------------------|---------------------------------------|
| labels shifted twice       | targets one place back; weights rolled          | check: definition; mask               |
| EOS masked                 | the last supervised token left out              | check: end-of-turn                    |
| prompt supervised          | every token supervised                          | check: mask                           |
| double BOS                 | the template's and the tokenizer's              | check: double-bos                     |
| pad = eos                  | labels that are the padding token left out      | check: definition                     |
| mean of means              | each micro-batch divided by its own units       | suite: test_one_row_at_a_time_...     |
| packing contamination      | attention over all; positions that go on        | check: packing; definition            |
| dropout in evaluation      | dropout that does not ask; eval() forgotten     | run: evaluation; suite                |
| adapter not trainable      | frozen; cut off; not in the optimizer           | run: gradients; optimizer             |
| tied head forgotten        | no gradient for it; not in the file; not saved  | run: gradients; ModelError; suite     |
| wrong reference            | of other rows; of the base of a tuned adapter   | run: reference                        |
| merge in low precision     | in bf16; into 4 bits                            | suite: test_half_precision_...        |
| truncated answer           | cut in silence; cut and closed; too long        | check: end-of-turn; mask; over-length |
| template drift             | another header, other options; changed half-way | check: prompt; OutputError            |
| rank mismatch on resume    | in the config; in the checkpoint                | OutputError; ModelError               |
| learning rate not restored | a schedule that each process counts anew        | suite: test_resumed_equals_...        |
| order not restored         | an epoch begun anew; a generator that runs on   | suite: test_resumed_equals_...        |

"run" is what `luthier train` refuses before its first step, "check" what `luthier check` refuses too, "suite" a test
that fails.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.data import making, pack
from luthier.data.render import Renderer, Tokens
from luthier.errors import OutputError
from luthier.factory import Factory
from tests.conftest import CHATML, SPECIAL, build_model, build_tokenizer, chat_rows
from tests.faults.planting import Make, Patch, found, other_targets, refused, rendered, stopped
from tests.train.conftest import turns
from tests.train.test_check_masks import all_supervised, end_unsupervised, shifted

# ---- labels and masks --------------------------------------------------------------------------------------------


def test_labels_shifted_twice(run_config: Make, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        other_targets(patch, lambda targets: replace(targets, position=(targets.position - 1).clamp(min=0)))
        assert found(run_config()) == {"definition"}
        refused(run_config(), "definition")
        assert found(run_config(data__packing=False)) == {"definition"}
    rendered(monkeypatch, shifted)
    assert "mask" in found(run_config())


def test_eos_masked(run_config: Make, monkeypatch: Patch) -> None:
    rendered(monkeypatch, end_unsupervised)
    refused(run_config(), "end-of-turn")
    assert found(run_config()) == {"end-of-turn"}


def test_prompt_supervised(run_config: Make, monkeypatch: Patch) -> None:
    rendered(monkeypatch, all_supervised)
    assert "mask" in found(run_config())


def begins_with_bos(template: str) -> Any:
    """A tokenizer that begins every text with its BOS, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(special=[*SPECIAL, "<s>"], template=template)
    tokenizer.bos_token = "<s>"
    places = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=places)
    return tokenizer


def save_beside(tokenizer: Any, folder: Path, **changes: Any) -> str:
    """A model with this tokenizer."""
    build_model(len(tokenizer), eos_token_id=tokenizer.eos_token_id, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_double_bos(run_config: Make, tmp_path: Path, monkeypatch: Patch) -> None:
    template = "{{ bos_token }}" + CHATML
    config = run_config(model=save_beside(begins_with_bos(template), tmp_path / "bos"))
    assert found(config) == set()

    def encode(self: Renderer, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "encode", encode)
        assert "double-bos" in found(config)
    twice = save_beside(begins_with_bos("{{ bos_token }}" + template), tmp_path / "twice")
    assert found(run_config(model=twice)) == {"double-bos"}


@pytest.mark.parametrize("packing", [True, False])
def test_pad_is_eos(run_config: Make, tmp_path: Path, monkeypatch: Patch, packing: bool) -> None:
    """Labels that are the padding token are left out, as collators do: no answer would ever end."""
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    config = run_config(model=save_beside(tokenizer, tmp_path / "pad"), data__packing=packing)
    assert found(config) == set()

    def without_padding(given: pack.Targets) -> pack.Targets:
        kept = given.label != tokenizer.pad_token_id
        return pack.Targets(
            given.position[kept], given.label[kept], given.weight[kept], given.segment[kept], given.place[kept]
        )

    other_targets(monkeypatch, without_padding)
    assert found(config) == {"definition"}


def test_a_truncated_answer(run_config: Make, monkeypatch: Patch) -> None:
    rows = [*chat_rows(8), turns("Go on?", "And so on. " * 30)]
    assert found(run_config(rows, data__max_length=64)) == {"over-length"}

    def in_silence(given: Any, config: Any, **_: Any) -> Any:
        return [Tokens(t.ids[: config.max_length], t.weights[: config.max_length]) for t in given], "kept"

    def and_closed(given: Any, config: Any, **_: Any) -> Any:
        cut = in_silence(given, config)[0]
        for tokens, whole in zip(cut, given, strict=True):
            tokens.ids[-1] = whole.ids[-1]
        return cut, "kept"

    for fit, names in ((in_silence, {"mask", "end-of-turn"}), (and_closed, {"mask"})):
        monkeypatch.setattr(making, "fit", fit)
        assert found(run_config(rows, data__max_length=64)) == names


# ---- templates ---------------------------------------------------------------------------------------------------


def test_template_drift(run_config: Make, tmp_path: Path, monkeypatch: Patch) -> None:
    """Training sees another header, or other options, than serving feeds."""
    real = Renderer.conversation

    def header(self: Renderer, given: Any) -> Any:
        bot = build_tokenizer(template=CHATML.replace("assistant\n", "bot\n").replace("m['role'] +", "'bot' +"))
        return real(Renderer(bot, stop_ids=[*self.stop_ids]), given)

    def no_options(self: Renderer, given: Any) -> Any:
        return real(Renderer(self.tokenizer, stop_ids=[*self.stop_ids]), given)

    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "conversation", header)
        assert found(run_config()) == {"prompt"}
        refused(run_config(), "prompt")
    file = tmp_path / "brief.jinja"
    file.write_text("{% if brief %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}" + CHATML)
    config = run_config(model__chat_template=str(file), model__template_options={"brief": True})
    assert found(config) == set()
    monkeypatch.setattr(Renderer, "conversation", no_options)
    assert found(config) == {"prompt"}


def test_a_template_that_changes_half_way(run_config: Make, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(CHATML)
    config = run_config(model__chat_template=str(tmp_path / "chat.jinja"))
    stopped(config)
    (tmp_path / "chat.jinja").write_text("{{ '<|im_start|>system\nToday.<|im_end|>\n' }}" + CHATML)
    with pytest.raises(OutputError, match="the data: other rows, order or rendering than before"):
        luthier.Factory().fine_tune(config)


def test_the_template_of_a_run_is_that_of_its_output(run_config: Make, tmp_path: Path) -> None:
    """So that there is no other one for serving."""
    from luthier.data.conversation import Message

    (tmp_path / "chat.jinja").write_text("{{ '<|im_start|>system\nToday.<|im_end|>\n' }}" + CHATML)
    config = run_config(model__chat_template=str(tmp_path / "chat.jinja"))
    luthier.Factory().fine_tune(config)
    asked = [Message(role="user", content="x")]
    folder = Path(config.output.dir)
    for place in (folder, folder / "checkpoint-4"):
        served = Factory().models.renderer(config.model.model_copy(update={"path": str(place), "chat_template": None}))
        assert "Today." in served.prompt_text(asked)

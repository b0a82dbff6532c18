"""Every verb once, as a user would type it, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Said
from tests.conftest import chat_rows

Command = Callable[..., Said]


@pytest.fixture
def config(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of a short run, with its rows beside it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat_rows(16)), encoding="utf-8")
    tree: dict[str, Any] = {"model": str(tiny), "data": {"train": ["rows.jsonl"], "held_out": 0.2}, "output": "run"}
    tree["train"] = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3}
    Path("c.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return Path("c.yaml")


def done(said: Said) -> str:
    """What a command printed, if it went well."""
    assert said.status == 0, said.out + said.err
    assert said.err == ""
    return said.out


@pytest.mark.usefixtures("config")
def test_train_then_look_at_the_result(luthier: Command, tiny: Path) -> None:
    out = done(luthier("train", "c.yaml", "--train.learning-rate", "2e-3", "output.keep=1"))
    assert "rows.jsonl: 16 rows, format messages (recognised)" in out
    assert "16 read, 16 kept, 0 dropped" in out and "for 3 steps" in out and "luthier chat run" in out
    assert "⟦It is 0.<|im_end|>⟧" in out, "trained tokens are marked"
    assert yaml.safe_load(Path("run/config.yaml").read_text())["train"]["learning_rate"] == 2e-3
    assert [path.name for path in Path("run").glob("checkpoint-*")] == ["checkpoint-3"]
    again = luthier("train", "c.yaml", "train.learning_rate=2e-3", "output.keep=1")
    assert again.status == 2 and "finished run; add --restart" in again.err
    done(luthier("train", "c.yaml", "--restart"))

    table = done(luthier("compare", tiny, "run", "--data", "rows.jsonl", "--show", 2, "--max-new-tokens", 4))
    assert "rows.jsonl: 16 rows (paired bootstrap over rows)" in table
    assert "loss" in table and "token_f1" in table and table.count("expected ") == 2
    assert any(verdict in table for verdict in ("better", "worse", "cannot tell"))

    unseen = done(luthier("compare", tiny, "run", "--metrics", ""))
    kept = Path("run/held_out.jsonl").read_text(encoding="utf-8").splitlines()
    assert f"run/held_out.jsonl: {len(kept)} rows" in unseen.replace("\n", "") and 0 < len(kept) < 16
    found = [done(luthier("data", "where", f"run/held_out.jsonl:{n}", "--runs", ".")) for n in range(1, len(kept) + 1)]
    assert all("held out" in said and "step" not in said for said in found)

    measured = done(luthier("evaluate", "run", "--data", "rows.jsonl", "--limit", 3, "-o", "answers.jsonl"))
    assert "exact_match" in measured and "chrf" in measured
    found = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    answers = [record for record in found if record["kind"] == "generate"]
    assert len(found) == 16 + 3 and len(answers) == 3 and answers[0]["reference"] == "It is 0."

    again = done(luthier("evaluate", "run", "--data", "rows.jsonl", "--limit", 2, "-o", "answers.jsonl"))
    assert "exact_match" in again and len(Path("answers.jsonl").read_text().splitlines()) == 16 + 2

    refused = luthier("train", "c.yaml", "--dry-run")
    assert refused.status == 2 and "finished run; add --restart" in refused.err
    assert done(luthier("chat", "run", "--prompt", "Hello", "--max-new-tokens", 3)).count("\n") >= 1
    assert done(luthier("chat", "run/checkpoint-3", "--prompt", "Hello", "--max-new-tokens", 3))
    assert "run on" in done(luthier("models", "list", "--runs", "."))


@pytest.mark.usefixtures("config")
def test_which_step_was_kept_is_said(luthier: Command) -> None:
    ruined = ("train.learning_rate=40", "train.max_steps=6", "train.epochs=9", "train.evaluate_every=1")
    out = done(luthier("train", "c.yaml", *ruined))
    kept = json.loads(Path("run/metrics.json").read_text())["final_step"]
    assert f"kept         step {kept} of 6, which has the lowest held-out loss" in out and kept < 6


@pytest.mark.usefixtures("config")
def test_few_and_long_rows_are_said(luthier: Command, tiny: Path) -> None:
    long = {"messages": [{"role": "user", "content": "x " * 600}, {"role": "assistant", "content": "y"}]}
    Path("few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*chat_rows(2), long]), encoding="utf-8")
    table = done(luthier("compare", tiny, tiny, "--data", "few.jsonl", "--metrics", ""))
    assert "few.jsonl: 2 rows" in table and "2 rows: too few" in table and "inf" not in table
    assert table.count("left out few.jsonl:3: ") == 2 and "the model knows 512 positions" in table


@pytest.mark.usefixtures("config")
def test_numbers_are_written_once(luthier: Command) -> None:
    done(luthier("train", "c.yaml", "output.trackers=[jsonl]", "train.epochs=1e-7"))
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1], "the shortest run is one step"
    assert lines[0]["tokens_per_second"] == pytest.approx(lines[0]["tokens"] / lines[0]["seconds"])


def test_a_question_without_an_answer(luthier: Command, tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Alone it is the user's mistake; in a conversation it is forgotten and the conversation goes on."""
    import shutil

    mute = tmp_path / "mute"
    shutil.copytree(tiny, mute)
    (mute / "chat_template.jinja").write_text("{% if messages[-1].content == 'no' %}{{ raise_exception('never') }}"
                                              "{% endif %}{{ messages | length }}", encoding="utf-8")  # fmt: skip
    alone = luthier("chat", mute, "--prompt", "no")
    assert alone.status == 2 and "never" in alone.err and alone.out == ""
    from luthier.inference.hf import HfEngine

    heard: list[int] = []
    answer = HfEngine.stream

    def stream(self: HfEngine, prompt: Any, sampling: Any) -> Any:
        heard.append(len(prompt.messages))
        yield from answer(self, prompt, sampling)

    typed = iter(["no", "yes"])
    monkeypatch.setattr(HfEngine, "stream", stream)
    monkeypatch.setattr("builtins.input", lambda prompt="": next(typed, "/exit"))
    said = luthier("chat", mute, "--max-new-tokens", "2")
    assert said.status == 0 and said.err.startswith("not answered: ") and heard == [1, 1]


@pytest.mark.usefixtures("config")
def test_looking_writes_nothing(luthier: Command, tiny: Path) -> None:
    before = sorted(Path().rglob("*"))
    dry = done(luthier("train", "c.yaml", "--dry-run", "train.epochs=1"))
    assert "epochs: 1.0" in dry and "nothing was trained or written" in dry
    assert "ok: " in done(luthier("check", "c.yaml", "data.max_length=200"))
    shown = done(luthier("data", "show", "rows.jsonl", "--model", tiny, "--row", 3))
    assert "format messages (recognised)" in shown and "rows.jsonl:3" in shown and "<|im_end|>⟧" in shown
    assert "³<|im_start|>assistant\n⟦" in shown and "  ³ generation prompt: what makes the model answer\n" in shown
    Path("rows.csv").write_text("id,Question,Answer\n1,Why?,So.\n2,Why?,So.\n3,How?,\n4,Why?,Why?\n")
    before.insert(0, Path("rows.csv"))
    told = " ".join(done(luthier("data", "inspect", "rows.csv", "--model", tiny)).split())
    for words in (
        "rows.csv: 4 rows, format prompt-completion (recognised; commas between columns; prompt is 'Question', ",
        "why 100 %", "not read id", "usable 2 of 4 rows", "1 rows say what another one says", "1 x empty-answer",
        "rows.csv:5: message 1 (assistant) repeats what it answers", "So.<|im_end|>⟧",
    ):  # fmt: skip
        assert words in told, told
    told = " ".join(done(luthier("data", "stats", "rows.jsonl", "--model", tiny, "--max-length", 50)).split())
    for words in ("usable 16 of 16 rows", "rows above 50", "roles 16 user, 16 assistant", "turns 16 x 2", "4,096"):
        assert words in told, told
    assert sorted(Path().rglob("*")) == sorted(before)
    done(luthier("data", "stats", "rows.jsonl", "--model", tiny, "--image", "s.png"))
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    refused = luthier("data", "stats", "rows.jsonl", "--model", tiny, "--image", "s.jpg")
    assert refused.status == 2 and "--image s.jpg: name a file that ends in .png" in refused.err


def test_what_can_be_configured(luthier: Command) -> None:
    assert "default: 0.0002" in done(luthier("config", "explain", "train.learning_rate"))
    assert "Inner size" in done(luthier("config", "explain", "adapter.rank"))
    schema = json.loads(done(luthier("config", "schema")))
    assert set(schema["properties"]) >= {
        "model",
        "data",
        "adapter",
        "objective",
        "train",
        "parallel",
        "evaluate",
        "output",
    }
    listed = done(luthier("plugins", "adapter"))
    assert "lora" in listed and "full" in listed and "sft" not in listed


def test_what_this_machine_has(luthier: Command) -> None:
    report = done(luthier("doctor"))
    for word in ("torch", "precision (auto)", "memory", "smollm2-135m-instruct", "luthier home"):
        assert word in report
    assert "smollm2-135m-instruct" in done(luthier("models", "list"))


def test_a_chat_keeps_its_history(luthier: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.inference.hf import HfEngine

    heard: list[list[str]] = []

    def stream(self: HfEngine, prompt: Any, sampling: Any) -> Any:
        heard.append([message.content for message in prompt.messages])
        yield f"answer {len(heard)}"

    typed = iter(["one", "", "two", "/reset", "three"])

    def ask(prompt: str = "") -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(HfEngine, "stream", stream)
    monkeypatch.setattr("builtins.input", ask)
    assert done(luthier("chat", tiny, "--system", "Be short.")) == "answer 1\nanswer 2\nanswer 3\n"
    assert heard == [
        ["Be short.", "one"],
        ["Be short.", "one", "answer 1", "two"],
        ["Be short.", "three"],
    ]


def test_cleaning(luthier: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers = ["It is a cafÃ©, mail a@b.example.", "As an AI, no.", "It is a cafÃ©, mail a@b.example.", "Ask me again."]
    Path("rows.csv").write_text("question,answer\n" + "".join(f'What?,"{answer}"\n' for answer in answers))
    looked = " ".join(done(luthier("data", "clean", "rows.csv", "--dry-run")).split())
    assert "kept 2" in looked and "mended by repair 2" in looked and "dropped: refusal 1 rows.csv:3: says" in looked
    assert sorted(path.name for path in Path().iterdir()) == ["rows.csv"]
    done(luthier("data", "clean", "rows.csv", "-o", "cleaned"))
    rows = [json.loads(line)["answer"] for line in Path("cleaned/rows.jsonl").read_text().splitlines()]
    assert rows == ["It is a café, mail [EMAIL].", "Ask me again."]
    assert "1 rows are back" in done(luthier("data", "restore", "cleaned", "refusal"))
    assert len(Path("cleaned/rows.jsonl").read_text().splitlines()) == 3
    only = done(
        luthier("data", "clean", "rows.csv", "--dry-run", "--with", "quality", "--rule", "quality.refusals=false")
    )
    assert "refusal" not in only
    near = luthier("data", "clean", "rows.csv", "--dry-run", "--rule", "near-duplicates.threshold=2")
    assert near.status == 2 and "threshold" in near.err and "given: 2" in near.err
    wrong = luthier("data", "clean", "rows.csv", "--dry-run", "--rule", "quality.refusal=1")
    assert wrong.status == 2 and "unknown key" in wrong.err and "refusals" in wrong.err
    assert "-o FOLDER" in luthier("data", "clean", "rows.csv").err


def test_augmenting(luthier: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    asked = ["How high is the tower?", "Who wrote this song?", "Why do leaves fall?"]
    Path("rows.csv").write_text("question,answer\n" + "".join(f'{one},"No, {n}."\n' for n, one in enumerate(asked)))
    two = ("data", "augment", "rows.csv", "--with", "recombination", "--rule", "recombination.modes=[dialogue]")
    assert "new rows 3" in " ".join(done(luthier(*two, "--dry-run")).split())
    assert sorted(path.name for path in Path().iterdir()) == ["rows.csv"]
    strict = " ".join(done(luthier(*two, "--dry-run", "--rule", "near-duplicates.threshold=0.2")).split())
    assert "new rows 0" in strict and "refused: near-duplicate 3 rows.csv:" in strict
    said = done(luthier(*two, "-o", "more", "--guard", "facts", "--rule", "recombination.seed=3"))
    assert "more/rows.jsonl to train on besides" in said
    rows = [json.loads(line) for line in Path("more/rows.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and len(rows[0]["messages"]) == 4 and rows[0]["made_of"].startswith("rows.csv:2, rows.csv:")
    assert "-o FOLDER" in luthier(*two).err
    for options, words in (
        (
            ("--with", "synonyms"),
            "synonyms need wordnet, which is not on this machine yet; fetch it: luthier models fetch",
        ),
        (("--with", "synonym"), "did you mean 'synonyms'?"),
        ((*two[3:5], "--guard", "fact"), "did you mean 'facts'?"),
        (
            (*two[3:5], "--rule", "recombination.copies=0"),
            "augment.0.copies: input should be greater than or equal to 1",
        ),
        ((*two[3:5], "--rule", "synonyms.copies=2"), "synonyms is not among recombination, facts, near-duplicates"),
        ((*two[3:5], "--held-out", "nowhere.csv"), "nowhere.csv"),
    ):
        wrong = luthier("data", "augment", "rows.csv", "--dry-run", *options)
        assert wrong.status == 2 and words in wrong.err and wrong.err.count("error:") == 1, wrong.err


def test_comparing_several_models_writes_a_report(luthier: Command, tiny: Path, config: Any) -> None:
    """What a row says is text on the page, which asks for nothing from elsewhere; settings reach the kinds."""
    rows = [
        {"question": f"<script>{i}</script>", "choices": ["</pre><b>no", "yes", "it"], "answer": i % 3}
        for i in range(24)
    ]
    Path("mc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = done(luthier("compare", tiny, tiny, tiny, "--data", "mc.jsonl", "-o", "out", "--set", "choice.by=text"))
    assert said.count("acc_norm") == 2 and said.count("cannot tell") >= 4
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "</pre><b>no" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 6 and "&lt;script&gt;1&lt;/script&gt;" in page
    assert "<script" not in Path("out/report.md").read_text(encoding="utf-8")
    assert Path("out/regressions.jsonl").read_text() == "" and len(list(Path("out").glob("predictions-*.jsonl"))) == 3
    wrong = luthier("evaluate", tiny, "--data", "mc.jsonl", "--set", "choice.by=words")
    assert wrong.status == 2 and "kinds.1.by" in wrong.err
    assert "two models or more" in luthier("compare", tiny, "--data", "mc.jsonl").err

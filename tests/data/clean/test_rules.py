"""Quality, languages, secrets, personal data, offence: what each rule takes, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from luthier.data.clean.language import Language
from luthier.data.clean.offensive import Offensive
from luthier.data.clean.quality import Quality
from luthier.data.clean.redact import Personal, Secrets, redacted
from tests.data.clean.conftest import rules

PROSE = (
    "The river rises in the hills above the town, runs through three villages on its way down, and meets the sea near "
    "an old harbour that fishermen left a hundred years ago, when the herring no longer came."
)


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("x", "too-short"),
        ("y" * 100_001, "too-long"),
        ("Buy now!\n" * 10 + "The end.", "repetition"),
        ("and so on " * 20, "repetition"),
        ("好的好的好的" * 20, "repetition"),
        ("☺☻♥♦ ☺☻♣♠ ok ♪♫☼►◄↕ ▲▼", ""),  # marks beyond Latin may be anybody's letters
        ("@@##~~^^&&@@~~^^&&~~^^ ok ok", "symbols"),
        ("Please enable JavaScript to continue.", "boilerplate"),
        ("Lorem ipsum dolor sit amet.", "boilerplate"),
        ("As an AI language model, I have no feelings.", "refusal"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("很抱歉，我无法回答这个问题。", "refusal"),
        (
            PROSE + " It is still there, and on some evenings somebody walks along the quay and looks for the",
            "truncated",
        ),
        ("what is a river", "echo"),
        (PROSE, ""),
        (PROSE + "\n\n```python\nprint(1)", ""),
        (PROSE + "\n- one\n- two", ""),
        ("Paris", ""),
        ("42", ""),
        ("def f(x):\n    return {k: v for k, v in x.items() if v != 0}  # @@ ## ~~", ""),
        ("$$\\sum_{i=1}^{n} x_i^2 = \\frac{1}{2} + 3^4$$", ""),
        ("The sorry state of the art: an AI model is a program.", ""),
        ("我们在学校里学习中文。", ""),
    ],
)
def test_quality(cleaned: Any, answer: str, rule: str) -> None:
    assert rules(cleaned(Quality(), ("What is a river?", answer))) == [rule]


def test_rules_can_be_left_out(cleaned: Any) -> None:
    lenient = Quality(refusals=False, boilerplate=False, echoes=False, truncated=False, min_characters=0)
    rows = [("q", "As an AI, no."), ("q", "lorem ipsum"), ("q", "q")]
    assert rules(cleaned(lenient, *rows)) == ["", "", "identical-pair"]  # that one no setting can read


def test_texts_without_a_question(cleaned: Any) -> None:
    rows = [{"text": PROSE + " As an AI, and so it goes on and on without an end in sight for anybody who looks"}]
    assert rules(cleaned(Quality(), *rows, format="text")) == [""]
    assert rules(cleaned(Quality(), {"text": "Buy now!\n" * 10}, format="text")) == ["repetition"]


def test_languages(cleaned: Any) -> None:
    rows = [
        ("q", PROSE), ("q", "Der Fluss entspringt in den Hügeln über der Stadt und mündet nahe einem Hafen ins Meer."),
        ("q", "这条河发源于镇子上面的山丘，流经三个村庄，最后在一个老港口附近入海。"), ("q", "ok"), ("q", "42"),
        ("q", "```python\nfür = 1\n```"), ("q", "1. Oxygen\n2. Hydrogen\n3. Nitrogen"),
        ("q", "Amanda, James, John, Maria"),
    ]  # fmt: skip
    found = cleaned(Language(keep=["en"]), *rows)
    assert rules(found) == ["", "language", "language", "", "", "", "", ""]
    assert "is in de, and en is kept" in found[1].drop.detail
    assert rules(cleaned(Language(keep=["en", "zh", "de"]), *rows)) == [""] * 8
    with pytest.raises(ValidationError):
        Language(keep=[])


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("key AKIAIOSFODNN7EXAMPLE.", "key [AWS_KEY]."),
        ("ghp_" + "a1B2" * 9, "[GITHUB_TOKEN]"),
        ("password: hunter2!xyz", "password: [SECRET]"),
        ("API_KEY='aB3dE5fG7hI9jK1lM3'", "API_KEY='[SECRET]'"),
        ("postgres://user:pa55w0rd@host/db", "postgres://user:[PASSWORD]@host/db"),
        ("Authorization: Bearer abcdef0123456789abcdef", "Authorization: Bearer [BEARER_TOKEN]"),
        ("sk-proj-" + "aB3" * 10, "[API_KEY]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[PRIVATE_KEY]"),
        ("密码是 Abc12345!", "密码是 [SECRET]"),
    ],
)
def test_secrets(cleaned: Any, text: str, redacted: str) -> None:
    (found,) = cleaned(Secrets(), ("What is it?", f"It is {text}"))
    assert found.value["completion"] == f"It is {redacted}" and found.mended == ("secrets",)
    (found,) = cleaned(Secrets(action="drop"), ("What is it?", f"It is {text}"))
    assert found.drop.rule == "secret"


@pytest.mark.parametrize(
    "text",
    [
        "my password is on the table", "the secret: of life is love", "password: correct", "api_key = YOUR_API_KEY",
        "AKIAIOSFODNN7EXAMPLE1x", "sk-learn and sk-image", "https://example.com:8080/path@x", "token ring",
    ],
)  # fmt: skip
def test_what_is_no_secret(text: str) -> None:
    assert Secrets().build().mend(text) == text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("jane.doe+x@mail.example.co.uk", "[EMAIL]"), ("+1 650-253-0000", "[PHONE]"), ("(650) 253-0000", "[PHONE]"),
        ("+49 30 901820", "[PHONE]"), ("13812345678", "[PHONE]"), ("4111 1111 1111 1111", "[CARD]"),
        ("11010519491231002X", "[ID_CN]"), ("DE89 3704 0044 0532 0130 00", "[IBAN]"), ("536-90-4399", "[SSN]"),
        ("8.8.8.8", "[IP]"), ("00:1A:2B:3C:4D:5E", "[MAC]"), ("passport no. C01234567", "passport no. [PASSPORT]"),
        ("护照号码：E12345678", "护照号码：[PASSPORT]"),
    ],
)  # fmt: skip
def test_personal_data(text: str, redacted: str) -> None:
    assert Personal().build().mend(f"It is {text}, yes") == f"It is {redacted}, yes"


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112", "110105194912310021", "DE89 3704 0044 0532 0130 01", "000-12-3456", "192.168.0.1",
        "256.1.1.1", "pi is 3.14159265358979", "ISBN 978-3-16-148410-0", "order 1234567890", "2023-2024",
        "user@localhost",
        "@property and a @ b", "0000 0000 0000 0000", "10:30:00", "x = 12345678901234567890",
    ],
)  # fmt: skip
def test_what_is_no_personal_data(text: str) -> None:
    assert Personal().build().mend(text) == text


def test_spots_that_overlap() -> None:
    assert redacted("abcdef", [(0, 4, "A"), (0, 2, "B"), (3, 6, "C")]) == "[A]ef"


def test_offence(cleaned: Any) -> None:
    rows = [
        ("q", PROSE),
        ("q", "You are a fucking idiot, you stupid piece of shit."),
        ("q", "他妈的，你这个傻逼。"),
        ("q", "好的。"),
    ]
    assert rules(cleaned(Offensive(), *rows)) == ["", "offensive", "offensive", ""]
    assert "idiot" in cleaned(Offensive(), rows[1])[0].drop.detail

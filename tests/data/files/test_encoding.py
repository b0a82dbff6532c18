"""Encodings: found where they can be told, refused where they cannot, never garbled."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.files.base import How
from luthier.data.files.encoding import MARKS
from luthier.data.sources import read_rows
from luthier.errors import DataError

CHINESE = "我们在学校里学习中文，老师说这个问题很重要。他们都来了，没有人不知道。"
FRENCH = "Les élèves ont étudié à l’école : « ça va ? » Voilà où naît la forêt, très âgée."
GERMAN = "Die Schüler müssen heute früh aufstehen, größere Übungen folgen später."
OTHERS = {
    "cp1251": "Мы учимся в школе, учитель сказал, что этот вопрос очень важен.",
    "koi8_r": "Мы учимся в школе, учитель сказал, что этот вопрос очень важен.",
    "euc_kr": "우리는 학교에서 한국어를 배웁니다. 선생님은 이 문제가 매우 중요하다고 말했습니다.",
    "shift_jis": "私たちは学校で日本語を勉強します。先生はこの問題がとても重要だと言いました。",
    "euc_jp": "私たちは学校で日本語を勉強します。先生はこの問題がとても重要だと言いました。",
    "big5": "我們在學校裡學習中文，老師說這個問題很重要。",
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy, řekl učitel ve škole.",
    "iso8859_2": "Zażółć gęślą jaźń, powiedział nauczyciel w szkole łódzkiej.",
    "cp1253": "Μαθαίνουμε ελληνικά στο σχολείο, είπε ο δάσκαλος.",
    "cp1254": "Öğrenciler bugün erken kalktı, öğretmen çok şey söyledi, ışık görünüyordu.",
    "cp1256": "نحن نتعلم اللغة العربية في المدرسة.",
    "cp1257": "Mokiniai šiandien anksti atsikėlė, mokytojas daug pasakė, ąžuolas žydėjo.",
    "cp874": "เราเรียนภาษาไทยที่โรงเรียน",
}


def read(folder: Path, content: bytes, name: str = "rows.txt", **options: str) -> tuple[list[object], str]:
    (folder / name).write_bytes(content)
    how = How(**options)  # type: ignore[arg-type]
    return [row.value for row in read_rows(folder / name, how=how)], str(how.characters)


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE + "龘𠀀", "gb18030", "gb18030"),
        (FRENCH, "cp1252", "cp1252"),
        (GERMAN, "latin_1", "cp1252"),
        (CHINESE, "utf-8", "utf-8"),
        (CHINESE, "utf-8-sig", "utf-8"),
        (CHINESE, "utf-16", "utf-16-le"),
        ("plain, with zeros in between", "utf-16-le", "utf-16-le"),
        ("plain, with zeros in between", "utf-16-be", "utf-16-be"),
        (FRENCH, "utf-32", "utf-32-le"),
    ],
)
@pytest.mark.parametrize("lead", ["", "ASCII first.\n" * 100_000], ids=["at once", "late"])
def test_found_and_said(tmp_path: Path, text: str, encoding: str, found: str, lead: str) -> None:
    rows, how = read(tmp_path, (lead + text).encode(encoding))
    assert rows[-1] == text and len(rows) == lead.count("\n") + 1
    assert how == found
    row = json.dumps({"text": text}, ensure_ascii=False)
    assert read(tmp_path, row.encode(encoding), "rows.jsonl") == ([{"text": text}], found)


@pytest.mark.parametrize("encoding", OTHERS)
def test_others_are_refused_and_can_be_named(tmp_path: Path, encoding: str) -> None:
    raw = OTHERS[encoding].encode(encoding)
    with pytest.raises(DataError, match=r"rows.txt:1: not UTF-8 .*name its encoding, for example"):
        read(tmp_path, raw)
    assert read(tmp_path, raw, encoding=encoding)[0] == [OTHERS[encoding]]


@pytest.mark.parametrize("text", ["é", "Café, née, été. ", FRENCH, GERMAN, CHINESE])
@pytest.mark.parametrize("damage", [b"\xe9 ", b"\xc3", b"\xff"])
def test_utf8_with_a_bad_place_is_refused(tmp_path: Path, text: str, damage: bytes) -> None:
    """Its characters, byte by byte, would be Western letters too."""
    for content in ((text * 20).encode() + damage + (text * 20).encode(), (text * 20 + "é").encode()[:-1]):
        with pytest.raises(DataError, match=r"rows.txt:1: not UTF-8"):
            read(tmp_path, content)


def test_a_damaged_utf8_file_is_not_taken_for_another(tmp_path: Path) -> None:
    content = (CHINESE + "\n").encode() * 3 + b"\xe9\n" + CHINESE.encode()
    with pytest.raises(DataError, match=r"rows.txt:4: not UTF-8 \(byte 0xe9"):
        read(tmp_path, content)
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path, codecs.BOM_UTF8 + FRENCH.encode("cp1252"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (codecs.BOM_UTF16_LE + b"a\0b", "not utf-16-le"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8a\x00", "not utf-16-le"),
        (b"caf\xc3", "not UTF-8"),
        (b"a\0b\0\0\0", "NUL bytes"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "not UTF-8|NUL bytes"),
        (b"\xff" * 9, "not UTF-8"),
        (b"\xc0\x80", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, content)


def test_an_unknown_encoding(tmp_path: Path) -> None:
    for name in ("klingon", "rot13", "zlib"):
        with pytest.raises(DataError, match=f"encoding '{name}' is not known"):
            read(tmp_path, b"a", encoding=name)


@settings(deadline=None, max_examples=150)
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_their_own_text_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever is read gives the file's bytes back in the encoding that was said."""
    try:
        rows, how = read(tmp_path_factory.getbasetemp(), content, text_unit="file")
    except DataError:
        return
    known = [mark for name, mark in MARKS if name == how and content.startswith(mark)]
    assert str(rows[0]) == content.removeprefix(known[0] if known else b"").decode(how).strip("\r\n")

"""Files that go wrong somewhere else: each with what it holds, or with what must be said about it.

`files()` gives (name, bytes, expected): the rows where the file can be read, or a pattern that its refusal must match,
always with the file's name and, where the file has lines, the line.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
from collections.abc import Iterator

from backports import zstd

Expected = list[object] | str
ONE, THREE = {"prompt": "one", "completion": "eins"}, {"prompt": "three", "completion": "drei"}
BAD_JSON = {  # the second of three rows, and what is said
    "duplicate key": ('{"prompt": 1, "prompt": 2}', "'prompt' is given twice"),
    "duplicate key inside": ('{"a": [{"b": 1, "b": 2}]}', "'b' is given twice"),
    "duplicate key by escape": ('{"a": 1, "\\u0061": 2}', "'a' is given twice"),
    "NaN": ('{"a": NaN}', "NaN is not JSON"),
    "Infinity": ('{"a": [Infinity]}', "Infinity is not JSON"),
    "minus Infinity": ('{"a": -Infinity}', "-Infinity is not JSON"),
    "too large": ('{"a": 1e999}', "too large"),
    "too many digits": ('{"a": ' + "1" * 5000 + "}", "5000 digits"),
    "high surrogate": ('{"a": "\\ud83d"}', "lone surrogate"),
    "low surrogate": ('{"a": "x\\ude00"}', "lone surrogate"),
    "surrogates the wrong way": ('{"a": "\\ude00\\ud83d"}', "lone surrogate"),
    "surrogate in a key": ('{"\\ud83d": 1}', "lone surrogate"),
    "NUL": ('{"a": "x\0y"}', "NUL bytes"),
    "control character": ('{"a": "x\x01y"}', "Invalid control character"),
    "tab in a string": ('{"a": "x\ty"}', "Invalid control character"),
    "escape character": ('{"a": "x\x1by"}', "Invalid control character"),
    "carriage return in a string": ('{"a": "x\ry"}', "Invalid control character"),
    "line break in a string": ('{"a": "x\ny"}', "Invalid control character"),
    "deep arrays": ("[" * 200 + "]" * 200, "nested too deeply"),
    "deep objects": ('{"a":' * 200 + "1" + "}" * 200, "nested too deeply"),
    "very deep": ("[" * 50_000 + "]" * 50_000, "nested too deeply"),
    "trailing comma in an object": ('{"a": 1,}', "not valid JSON"),
    "trailing comma in an array": ('{"a": [1,]}', "not valid JSON"),
    "single quotes": ("{'a': 1}", "not valid JSON"),
    "comment": ('{"a": 1 /* one */}', "not valid JSON"),
    "line comment": ('{"a": 1} // one', "not valid JSON|expected ','"),
    "unquoted key": ("{a: 1}", "not valid JSON"),
    "no colon": ('{"a" 1}', "not valid JSON"),
    "no comma": ('{"a": 1 "b": 2}', "not valid JSON"),
    "no value": ('{"a": }', "not valid JSON"),
    "open string": ('{"a": "x}', "not valid JSON"),
    "wrong escape": ('{"a": "\\x41"}', "not valid JSON"),
    "wrong unicode escape": ('{"a": "\\u12G4"}', "not valid JSON"),
    "leading zero": ('{"a": 01}', "not valid JSON"),
    "plus": ('{"a": +1}', "not valid JSON"),
    "hexadecimal": ('{"a": 0x1}', "not valid JSON"),
    "no digit before the point": ('{"a": .5}', "not valid JSON"),
    "no digit behind the point": ('{"a": 1.}', "not valid JSON"),
    "Python": ('{"a": True}', "not valid JSON"),
    "undefined": ('{"a": undefined}', "not valid JSON"),
    "mark in the middle": ("\ufeff" + '{"a": 1}', "not valid JSON"),
    "a bracket too many": ('{"a": 1}]', "not valid JSON|text after"),
    "a brace too many": ('{"a": 1}}', "not valid JSON|expected ','"),
    "the other bracket": ('{"a": [1}', "not valid JSON"),
    "YAML": ("a: 1", "not valid JSON"),
    "a word": ("nothing", "not valid JSON"),
}
BAD_UTF8 = {
    "overlong": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "continuation alone": b"\x80",
    "cut in the middle": b"\xe4\xbd",
    "latin": b"\xe9",
    "never used": b"\xff\xfe",
}
ODD_JSON = {  # valid, and easily misread
    "separators": '{"a": "x\u2028y\u2029z\u0085w"}',
    "escaped NUL": '{"a": "x\\u0000y"}',
    "emoji": '{"a": "\U0001f469\u200d\U0001f4bb"}',
    "escaped emoji": '{"a": "\\ud83d\\ude00"}',
    "directions": '{"a": "\u202eabc\u202c\u200f"}',
    "zero width": '{"\u200b": "\ufeff"}',
    "no key": '{"": {"": ""}}',
    "large numbers": '{"a": [1e308, -0.0, 123456789012345678901234567890, 5e-324]}',
    "escapes": '{"a": "\\/\\"\\\\\\b\\f\\n\\r\\t"}',
    "depth": '{"a": ' + "[" * 98 + "]" * 98 + "}",
    "brackets": '{"a": "[[[{{{"}',
    "DEL": '{"a": "\x7f"}',
    "unpaired combining": '{"a": "\u0301\u0301"}',
    "private": '{"a": "\ue000\U0010ffff\ufffe"}',
    "long": json.dumps({"a": "x" * 3_000_000}),
    "many keys": json.dumps({str(n): n for n in range(5000)}),
}
BAD_TABLE = {  # the second of three rows
    "one field more": ("1|2|3", "3 fields, and the header names 2"),
    "one field less": ("1", "1 fields"),
    "open quote": ('"1|2', "not valid CSV"),
    "text behind a quote": ('"1"x|2', "not valid CSV"),
    "NUL": ("1\0|2", "NUL bytes"),
    "unquoted delimiter": ("a|b|", "3 fields"),
    "carriage return": ("1\r2|3", "not valid CSV"),
    "quote closed late": ('"a|b"|c|d', "3 fields"),
    "only quotes": ('"""|', "not valid CSV"),
}
ODD_TABLE = {
    "quotes": ('"a ""b"""|c', ['a "b"', "c"]),
    "quote inside": ('a"b|c', ['a"b', "c"]),
    "delimiter": ('"a|b"|c', ["a|b", "c"]),
    "breaks": ('"a\r\nb\n\nc"|d', ["a\r\nb\n\nc", "d"]),
    "spaces": (" a | b ", [" a ", " b "]),
    "empty": ("|", ["", ""]),
    "empty quotes": ('""|""', ["", ""]),
    "separators": ("a\u2028\x0b\x0c\x1c|b\x85", ["a\u2028\x0b\x0c\x1c", "b\x85"]),
    "formula": ("=1+1|@x", ["=1+1", "@x"]),
    "numbers": ("007|1e5", ["007", "1e5"]),
    "words": ("NA|null", ["NA", "null"]),
    "mark": ("\ufeffa|b", ["\ufeffa", "b"]),
    "backslash": ("a\\|b\\n", ["a\\", "b\\n"]),
}
PACKED = {"": lambda raw: raw, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd.compress}


def files() -> Iterator[tuple[str, bytes, Expected]]:
    """Every file once, or once for each kind of packing."""
    for name, content, expected in [*_json(), *_tables(), *_texts()]:
        for ending, pack in PACKED.items():
            yield name + ending, pack(content), expected
    yield from _cut()


def _json() -> Iterator[tuple[str, bytes, Expected]]:
    one, three = json.dumps(ONE), json.dumps(THREE)
    for name, (bad, said) in BAD_JSON.items():
        yield f"{name}.jsonl", f"{one}\n{bad}\n{three}\n".encode(), rf"jsonl[^:]*:(2|3): .*({said})"
        yield f"{name}.json", f"[{one},\n{bad},\n{three}]\n".encode(), rf"json[^:]*:(2|3): .*({said})"
    for name, raw in BAD_UTF8.items():
        content = f'{one}\n{{"a": "'.encode() + raw + f'"}}\n{three}\n'.encode()
        yield f"{name}.jsonl", content, r"jsonl[^:]*:2: not UTF-8"
    for name, odd in ODD_JSON.items():
        yield f"{name}.jsonl", f"{one}\r\n\r\n{odd}\n\t{three}".encode(), [ONE, json.loads(odd), THREE]
    rows: list[object] = [ONE, THREE]
    text = f"{one}\n{three}"
    for encoding in ("utf-8-sig", "utf-16", "utf-32", "utf-16-le"):
        yield f"{encoding}.jsonl", text.encode(encoding), rows
    yield "odd.jsonl", text.encode("utf-16")[:-1], r"jsonl[^:]*:\d: (not utf-16-le|not valid JSON)"
    yield "two marks.jsonl", codecs.BOM_UTF8 * 2 + text.encode(), r"jsonl[^:]*:1: not valid JSON"
    yield "blank.jsonl", b" \n\t\r\n", r"jsonl[^:]*: the file is empty"
    yield "csv inside.jsonl", b"prompt,completion\n1,2\n", r"jsonl[^:]*:1: not valid JSON"
    yield "html.json", b"<html><body>404</body></html>", r"json[^:]*:1: not valid JSON"
    yield "pickle.json", b"\x80\x04\x95\x10\x00\x00\x00", r"json[^:]*:1: (not UTF-8|not a text file)"


def _tables() -> Iterator[tuple[str, bytes, Expected]]:
    for suffix, delimiter in (("csv", ","), ("tsv", "\t"), ("csv", ";")):
        for name, (bad, said) in BAD_TABLE.items():
            content = f"prompt|completion\n1|2\n{bad}\n3|4\n".replace("|", delimiter)
            yield f"{name} {ord(delimiter)}.{suffix}", content.encode(), rf"{suffix}[^:]*:3: .*({said})"
        for name, (odd, fields) in ODD_TABLE.items():
            content = f"prompt|completion\none|eins\n{odd}\nthree|drei".replace("|", delimiter)
            values = [field.replace("|", delimiter) for field in fields]
            row = dict(zip(("prompt", "completion"), values, strict=True))
            yield f"{name} {ord(delimiter)}.{suffix}", content.encode(), [ONE, row, THREE]
        for name, raw in BAD_UTF8.items():
            content = "prompt|completion\n1|2\n3|x".replace("|", delimiter).encode() + raw + b"x\n"
            yield f"{name} {ord(delimiter)}.{suffix}", content, rf"{suffix}[^:]*:3: not UTF-8"
    yield "twice.csv", b"a,b,a\n1,2,3\n", r"csv[^:]*:1: two columns are called 'a'"
    yield "blank.csv", b"\n\n", r"csv[^:]*: the file is empty"


def _texts() -> Iterator[tuple[str, bytes, Expected]]:
    for name, raw in BAD_UTF8.items():
        yield f"{name}.txt", b"one\n\n\nt" + raw + b"o\n", r"txt[^:]*:4: not UTF-8"
    yield "NUL.txt", b"one\ntwo\0", r"txt[^:]*:2: not a text file"
    yield "blank.txt", b" \n \r\n", r"txt[^:]*: the file is empty"
    yield "breaks.txt", "a\u2028\x0b\x0c\x1c\x85b\r\nc\rd\n".encode(), ["a\u2028\x0b\x0c\x1c\x85b", "c\rd"]


def _cut() -> Iterator[tuple[str, bytes, Expected]]:
    """Packed files and arrays that end too early, at twenty places each."""
    rows = [{"prompt": f"question {n}", "completion": f"answer {n * n}"} for n in range(400)]
    whole = json.dumps(rows, indent=1).encode()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for part in range(1, 20):
        yield f"cut {part}.json", whole[: len(whole) * part // 20], r"json:\d+: .*is the file cut off\?"
        for ending in (".gz", ".bz2", ".zst"):
            raw = PACKED[ending](lines)
            yield (
                f"cut {part}.jsonl{ending}",
                raw[: len(raw) * part // 20],
                r": (cannot be unpacked|.*is the file cut off)",
            )

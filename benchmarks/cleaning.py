"""How well dirt is found: `python -m benchmarks.cleaning [--seed 0]`.

Real rows (alpaca_en, 999) without the near-duplicates that brute force finds in them; dirt of each kind is planted into
some of them, and each cleaner is held to what was planted: precision and recall. Foreign rows are alpaca_zh's and
chatterbot's. The command fails where a cleaner finds less, or more, than is promised.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
from collections.abc import Callable

from benchmarks.common import alpaca_rows, chatterbot_rows, machine, print_table
from luthier.data.clean.base import CleanerSettings
from luthier.data.clean.duplicates import Duplicates
from luthier.data.clean.language import Language
from luthier.data.clean.near import NearDuplicates
from luthier.data.clean.pipeline import Cleaning
from luthier.data.clean.quality import Quality
from luthier.data.clean.redact import Personal, Secrets
from luthier.data.clean.repair import Repair
from luthier.data.conversation import Origin, Row

Pair = tuple[str, str]
PROMISED = {
    "duplicates": (0.99, 0.99), "near-duplicates": (0.95, 0.95), "language": (0.97, 0.97), "secrets": (0.95, 0.95),
    "personal data": (0.95, 0.95), "encodings": (0.95, 0.95), "refusals": (0.95, 0.95), "cut off": (0.9, 0.9),
}  # fmt: skip
"""Least precision and recall."""
FOREIGN = ("french", "german", "italian", "portuguese", "russian", "spanish")


def base() -> list[Pair]:
    """Real questions and answers, none of which is like another: Jaccard of 5-grams below one half, by brute force."""
    rows = json.loads(alpaca_rows().read_text(encoding="utf-8"))
    kept: list[tuple[Pair, set[str]]] = []
    for row in rows:
        pair = (" ".join(filter(None, (row["instruction"], row["input"]))), row["output"])
        text = " ".join(re.findall(r"\w+", " ".join(pair).lower()))
        pieces = {text[i : i + 5] for i in range(len(text) - 4)}
        if pair[1].strip() and all(2 * len(pieces & other) < len(pieces | other) / 1.5 for _, other in kept):
            kept.append((pair, pieces))
    return [pair for pair, _ in kept]


def found(cleaner: CleanerSettings, rows: list[Pair]) -> list[bool]:
    """Which rows a cleaner drops or mends."""
    given = [Row(Origin("rows", n), {"prompt": asked, "completion": said}) for n, (asked, said) in enumerate(rows)]
    outcomes = Cleaning([cleaner]).rows(given, "prompt-completion")
    return [bool(one.mended) or (one.drop is not None and one.drop.readable) for one in outcomes]


def copied(pair: Pair, chance: random.Random) -> Pair:
    """The same, with other case, spaces or punctuation."""
    changes: list[Callable[[str], str]] = [str, str.upper, lambda s: s + " ", lambda s: s.replace(" ", "  "),
                                           lambda s: s.rstrip(".!?"), str.title]  # fmt: skip
    return chance.choice(changes)(pair[0]), chance.choice(changes)(pair[1])


def edited(pair: Pair, chance: random.Random) -> Pair:
    """One word in forty changed, or a few words at the end."""
    words = pair[1].split(" ")
    for _ in range(max(1, len(words) // 40)):
        words[chance.randrange(len(words))] = chance.choice(("indeed", "other", "maybe", "seven"))
    return pair[0], " ".join(words) if chance.random() < 0.7 else pair[1] + " That is all."


def token(chance: random.Random, alphabet: str, length: int) -> str:
    return "".join(chance.choices(alphabet, k=length))


def secret(chance: random.Random) -> str:
    letters, upper = string.ascii_letters + string.digits, string.ascii_uppercase + string.digits
    return chance.choice(
        [
            "AKIA" + token(chance, upper, 16), "ghp_" + token(chance, letters, 36), "sk-" + token(chance, letters, 48),
            "xoxb-" + token(chance, string.digits, 12) + "-" + token(chance, letters, 24),
            "AIza" + token(chance, letters + "-_", 35), "glpat-" + token(chance, letters, 20),
            f"password: {token(chance, letters + '!#%', 12)}7a!", f'api_key = "{token(chance, letters, 32)}"',
            f"postgres://admin:{token(chance, letters, 12)}@db.internal/main",
            f"Authorization: Bearer {token(chance, letters, 40)}",
            "eyJ" + token(chance, letters, 20) + ".eyJ" + token(chance, letters, 40) + "." + token(chance, letters, 43),
            f"-----BEGIN RSA PRIVATE KEY-----\n{token(chance, letters, 64)}\n-----END RSA PRIVATE KEY-----",
        ]
    )  # fmt: skip


def personal(chance: random.Random) -> str:
    from stdnum import luhn
    from stdnum.cn import ric
    from stdnum.iso7064 import mod_97_10

    digits, name = string.digits, token(chance, string.ascii_lowercase, 7)
    card = "4" + token(chance, digits, 14)
    identity = (
        "110105"
        + f"19{chance.randrange(50, 99)}0{chance.randrange(1, 9)}1{chance.randrange(9)}"
        + token(chance, digits, 3)
    )
    account = token(chance, digits, 18)
    iban = f"DE{98 - int(account + '131400') % 97:02d}{account}"
    assert mod_97_10.is_valid(iban[4:] + iban[:4])
    last, month = token(chance, digits, 4), chance.randrange(1000, 9999)
    kinds = (
        f"{name}.{name[:3]}@{name}.com", f"+1 650-253-{last}", f"(212) 555-{last}", f"+49 30 9018{last}",
        f"138{token(chance, digits, 8)}", card + str(luhn.calc_check_digit(card)),
        identity + str(ric.calc_check_digit(identity + "0")), iban, f"536-{chance.randrange(10, 99)}-{month}",
        f"8.8.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}",
    )  # fmt: skip
    return chance.choice(kinds)


def inside(pair: Pair, what: str, chance: random.Random) -> Pair:
    """Somewhere between the words of an answer."""
    words = pair[1].split(" ")
    words.insert(chance.randrange(len(words) + 1), what)
    return pair[0], " ".join(words)


def mojibake(pair: Pair, chance: random.Random) -> Pair:
    said = chance.choice(("Café, naïve, façade.", "It’s a “quote” – yes…", "Größe und Übung.", "El niño comió piñas."))
    return inside(pair, said.encode().decode("cp1252", errors="ignore"), chance)


def refusal(pair: Pair, chance: random.Random) -> Pair:
    return pair[0], chance.choice(
        ("As an AI language model, I cannot do that.", "I'm sorry, but I can't help with that request.",
         "I am unable to provide this; I'm just an AI.", "Sorry, I cannot answer that.", "I cannot assist with that.")
    )  # fmt: skip


def cut(pair: Pair, chance: random.Random) -> Pair:
    words = (pair[1].rstrip(".!?") + " and it goes on in the same way as before for a while longer than this").split(
        " "
    )
    return pair[0], " ".join(words[: len(words) - chance.randrange(2)])


def planted(kind: str, rows: list[Pair], chance: random.Random) -> tuple[CleanerSettings, list[Pair], list[bool]]:
    """A cleaner, rows with dirt, and which are dirty."""
    clean = rows
    if kind == "cut off":
        clean = [pair for pair in rows if len(pair[1]) > 250 and "\n" not in pair[1]]
    if kind == "refusals":  # these rows have real ones
        clean = [pair for pair in rows if not re.search(r"\bAI\b|sorry, I|I'm sorry", pair[1])]
    chosen = chance.sample(range(len(clean)), len(clean) // 5)
    if kind in ("duplicates", "near-duplicates"):
        change = copied if kind == "duplicates" else edited
        long = [n for n in chosen if len(clean[n][1].split()) > 20] if kind == "near-duplicates" else chosen
        dirt = [change(clean[n], chance) for n in long]
        cleaner: CleanerSettings = Duplicates() if kind == "duplicates" else NearDuplicates()
        return cleaner, clean + dirt, [False] * len(clean) + [True] * len(dirt)
    if kind == "language":
        lines = chatterbot_rows(*FOREIGN).read_text(encoding="utf-8").splitlines()
        foreign = [json.loads(line) for line in lines]
        dirt = [(row["prompt"], row["completion"]) for row in foreign if len(row["completion"]) > 40]
        dirt = chance.sample(dirt, min(len(chosen), len(dirt)))
        return Language(keep=["en"]), clean + dirt, [False] * len(clean) + [True] * len(dirt)
    ways: dict[str, tuple[CleanerSettings, Callable[[Pair], Pair]]] = {
        "secrets": (Secrets(), lambda pair: inside(pair, secret(chance), chance)),
        "personal data": (Personal(), lambda pair: inside(pair, personal(chance), chance)),
        "encodings": (Repair(only=["encoding"]), lambda pair: mojibake(pair, chance)),
        "refusals": (Quality(truncated=False, max_repetition=1, min_characters=0), lambda pair: refusal(pair, chance)),
        "cut off": (Quality(refusals=False, max_repetition=1, min_characters=0), lambda pair: cut(pair, chance)),
    }
    cleaner, spoil = ways[kind]
    dirty = set(chosen)
    return (
        cleaner,
        [spoil(p) if n in dirty else p for n, p in enumerate(clean)],
        [n in dirty for n in range(len(clean))],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print what was missed, and what was found wrongly")
    given = parser.parse_args()
    rows, table, failed = base(), [], []
    for kind, (least_precision, least_recall) in PROMISED.items():
        cleaner, dirty, truth = planted(kind, rows, random.Random(given.seed))
        said = found(cleaner, dirty)
        right = sum(a and b for a, b in zip(said, truth, strict=True))
        precision, recall = right / max(sum(said), 1), right / sum(truth)
        table.append([kind, len(dirty), sum(truth), f"{precision:.3f}", f"{recall:.3f}"])
        if precision < least_precision or recall < least_recall:
            failed.append(kind)
        for pair, a, b in zip(dirty, said, truth, strict=True):
            if given.show and a != b:
                print(f"{kind}: {'missed' if b else 'wrongly'}: {pair[1][:300]!r}")
    print(f"\n{machine()}; alpaca_en, {len(rows)} rows\n")
    print_table(["dirt", "rows", "dirty", "precision", "recall"], table)
    if failed:
        raise SystemExit(f"less than promised: {', '.join(failed)}")


if __name__ == "__main__":
    main()

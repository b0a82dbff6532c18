"""What would make a run fit: changes to its config, each measured in a process of its own until one fits.

`python -m luthier.drive.fit BYTES` reads a resolved config from standard input, makes a few steps of it in at most so
many bytes, and prints what they took as one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

from luthier.adapters.base import Adapter
from luthier.config import RunConfig, apply_override, parse_config
from luthier.errors import LuthierError
from luthier.train.fit import Fit

CHECKPOINTING = "train.gradient_checkpointing=true"


@dataclass(frozen=True, slots=True)
class Tried:
    """A change, as it is written on the command line, and what the run takes with it, or why that is not known."""

    change: str
    fit: Fit | None
    reason: str = ""


def proposals(config: RunConfig, fit: Fit | None, *, room: int, most_bytes: int) -> Iterator[Tried]:
    """Changes from the cheapest on, each measured, up to the first with which the run takes at most `room` bytes.

    Those that leave the numbers of training as they are come first. Where what stays in memory from step to step is
    too much already, only changes of that are tried.
    """
    for change in changes(config, fit, room=room):
        tried = _measured(config, change, most_bytes)
        yield tried
        if tried.fit is not None and tried.fit.measured and tried.fit.peak <= room:
            return


def changes(config: RunConfig, fit: Fit | None, *, room: int) -> list[str]:
    """What can be tried, as overrides with a space between them."""
    adapter, train = cast(Adapter, config.adapter), config.train
    tokens = fit.largest_tokens if fit else 512
    smaller = (
        f"train.micro_batch_tokens={tokens // 2}"
        if train.micro_batch_size == "auto"
        else f"train.micro_batch_size={train.micro_batch_size // 2}"
    )
    can_shrink = train.micro_batch_size == "auto" or train.micro_batch_size > 1
    recomputed = [] if train.gradient_checkpointing is True else [CHECKPOINTING]
    same = [*([smaller] if can_shrink else []), *recomputed]
    if can_shrink and recomputed:
        same.append(f"{smaller} {CHECKPOINTING}")
    static = 0 if fit is None else sum(size for name, size in fit.parts() if name not in ("logits", "activations"))
    found = same if static < room else []
    least = " ".join(same[-1:])
    if adapter.trains_base:
        found += [f"train.optimizer=adamw-8bit {least}".strip(), f"adapter=lora {least}".strip()]
    if not adapter.base_bits:
        found.append(f"adapter=qlora {least}".strip())
    return found


def _measured(config: RunConfig, change: str, most_bytes: int) -> Tried:
    """The fit of a changed config, in a process of its own."""
    tree = config.model_dump(mode="json")
    try:
        for override in change.split(" "):
            apply_override(tree, override)
        changed = parse_config(tree)
    except LuthierError as error:
        return Tried(change, None, str(error))
    done = subprocess.run(
        [sys.executable, "-m", "luthier.drive.fit", str(most_bytes)],
        input=changed.to_yaml(),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return Tried(change, None, f"the process that tried it ended with status {done.returncode}")
    answer = json.loads(lines[-1])
    return Tried(change, Fit(**answer["fit"]) if "fit" in answer else None, answer.get("reason", ""))


def main() -> None:
    """Answer for the config on standard input."""
    import yaml

    from luthier.factory import Factory

    config = parse_config(yaml.safe_load(sys.stdin.read()))
    try:
        checked = Factory().check(config, most_bytes=int(sys.argv[1]))
        checked.report.require_no_errors()
        assert checked.fit is not None
        print(json.dumps({"fit": asdict(checked.fit)}))
    except LuthierError as error:
        print(json.dumps({"reason": str(error)}))


if __name__ == "__main__":
    main()

"""Rows looked at by Ray Data: on this machine, or on the cluster that `RAY_ADDRESS` names, as is Ray's own convention.

What it must not know: what a stage does. Rows are judged in their order where the command runs, so that they are the
same wherever they were looked at.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.data.clean.pipeline import Batches, Look, Looked, Outcome, Stage
from luthier.errors import LuthierError, UserError
from luthier.supplies import library

WINDOW = 64
"""Batches of one data set of Ray's: the rows that are in memory together. Each data set takes a second to begin."""

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


@dataclass(frozen=True, slots=True)
class Sealed:
    """What Ray carries as it is; it would make columns of tuples and lists."""

    held: Any


@contextmanager
def ray_workers(count: int) -> Iterator[Look]:
    """Workers of a Ray that is there, else of one for this block, with so many cores (0: all of this machine).

    Raises:
        MissingExtra: Ray is not installed.
        UserError: no cluster that can be used answers at `RAY_ADDRESS`.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = library("ray", "--on ray", "ray")
    library("ray.data", "--on ray", "ray", called="ray")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and said once
    if ray.is_initialized():
        yield _look
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        # its ports are open to the network, so they ask for a token; Ray's own would be written into a file
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        try:
            ray.init(address, num_cpus=count or None, include_dashboard=False, **QUIET)
        except (SystemExit, RuntimeError) as error:  # it ends the process where its servers take too long
            raise UserError(f"--on ray: Ray did not start on this machine ({error}); use --on here") from None
    else:
        _join(address)
    context = ray.get_runtime_context()
    session = Path(context.get_temp_dir(), context.get_session_name())
    try:
        yield _look
    finally:
        ray.shutdown()
        if address == "local":
            shutil.rmtree(session, ignore_errors=True)  # rows that did not fit into memory are there


def _join(address: str) -> None:
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself would go on asking for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **QUIET)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS={address}: {error}; name a cluster that runs, or none to use this machine"
        ) from None


def _look(stage: Stage, batches: Batches) -> Looked:
    import ray.data

    while window := [Sealed(batch) for batch in islice(batches, WINDOW)]:
        rows = ray.data.from_items(window, override_num_blocks=len(window)).map(_found, fn_args=(stage,))
        rows.context.execution_options.preserve_order = True
        rows.context.enable_progress_bars = False
        rows.context.enable_fallback_to_arrow_object_ext_type = True
        try:
            for row in rows.iter_rows():
                found = row["item"].held
                if isinstance(found, LuthierError):
                    raise found
                yield found
        except ray.exceptions.RayError as error:
            raise LuthierError(f"--on ray: {error}\neach node needs what this one has installed") from None


def _found(row: dict[str, Sealed], stage: Stage) -> dict[str, Sealed]:
    outcomes: tuple[Outcome, ...] = row["item"].held
    try:
        return {"item": Sealed(stage.look(outcomes))}
    except LuthierError as error:
        return {"item": Sealed(error)}

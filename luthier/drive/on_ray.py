"""Several processes of one run, placed by Ray Train: on this machine, or on the cluster that `RAY_ADDRESS` names.

Ray chooses the machines and starts a worker for each process; in each worker the same command runs as under torchrun.
Every machine must see the config, the rows and the output folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.drive.launch import ATTEMPT, FINAL, free_port
from luthier.errors import LuthierError, MissingExtra

SPEAKS_FIRST = 5.0
"""Seconds that a worker without a message leaves to those that have one."""


def launch_on_ray(processes: int, arguments: Sequence[str], *, restarts: int = 0) -> int:
    """Run `luthier ARGUMENTS` in that many workers; returns 0.

    Raises:
        MissingExtra: Ray Train is not installed.
        LuthierError: a worker failed, after so many restarts.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        from ray.train import ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError:
        raise MissingExtra("--on ray", "ray[train]", "ray") from None
    import torch

    settings = {"arguments": [*arguments], "folder": str(Path.cwd()), "path": sys.path}
    places = ScalingConfig(num_workers=processes, use_gpu=torch.cuda.is_available())
    if not ray.is_initialized():
        ray.init(logging_level="ERROR", log_to_driver=False)
    print(f"Ray Train starts {processes} workers; metrics.jsonl in output.dir says how far they are", file=sys.stderr)
    try:
        for attempt in range(restarts + 1):  # not by Ray, whose workers do not know that they were there before
            try:
                TorchTrainer(_work, train_loop_config=settings | {"attempt": attempt}, scaling_config=places).fit()
                break
            except Exception as error:
                said = re.search(r"rank \d+: luthier ended with (\d+).*", str(error))
                why = said.group() if said else f"Ray Train: {error}"
                if attempt == restarts or (said and int(said[1]) in FINAL):
                    raise LuthierError(why) from error
                print(f"{why}; starting again ({attempt + 1} of {restarts})", file=sys.stderr)
    finally:
        ray.shutdown()
    return 0


def _work(settings: Mapping[str, Any]) -> None:
    """What each worker does: the command, with the names of torchrun, which Ray Train sets."""
    import torch.distributed as dist

    port = [free_port() if dist.get_rank() == 0 else 0]  # Ray's own is taken by its workers
    dist.broadcast_object_list(port)
    names = {"RANK": dist.get_rank(), "WORLD_SIZE": dist.get_world_size(), "MASTER_PORT": port[0]}
    environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, settings["path"]))
    done = subprocess.run(
        [sys.executable, "-m", "luthier", *settings["arguments"]],
        env=environment | {ATTEMPT: str(settings["attempt"])},
        cwd=settings["folder"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    sys.stderr.write(done.stderr)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        if not done.stderr:
            time.sleep(SPEAKS_FIRST)  # Ray takes the first failure for the cause
        raise RuntimeError(f"rank {dist.get_rank()}: luthier ended with {done.returncode}: {said}")

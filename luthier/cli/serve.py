"""`luthier serve MODEL`: answers over HTTP, as OpenAI's API gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.errors import MissingExtra, UserError

Named = Annotated[list[str] | None, typer.Option("--adapter", help="An adapter, NAME=FOLDER; several times.")]
KEYS = "A file of keys (lines: NAME SHA256 [admin]); one that is not there is made, with a key that is printed once."


def serve(
    model: Annotated[
        str, typer.Argument(help="A folder, hub id, .gguf file, catalogue name or run.", show_default=False)
    ],
    *,
    adapter: Named = None,
    embedder: Annotated[list[str] | None, typer.Option(help="An encoder for /v1/embeddings.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="A reward model for /v1/score.")] = None,
    host: Annotated[str, typer.Option(help="Where it listens; beyond this machine only with --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    keys: Annotated[Path | None, typer.Option(help=KEYS)] = None,
    adapters: Annotated[Path | None, typer.Option(help="A folder below which an admin key may load adapters.")] = None,
    slots: Annotated[int, typer.Option(help="Answers made at once.", min=1)] = 16,
    queue: Annotated[int, typer.Option(help="Answers that wait; beyond them, 429.", min=0)] = 64,
    per_key: Annotated[int, typer.Option(help="Requests of one key at once.", min=1)] = 64,
    longest: Annotated[int, typer.Option(help="Tokens that an answer may have.", min=1)] = 4096,
) -> None:
    """Serve a model and its adapters over HTTP: OpenAI-compatible, batched, on the loopback unless there are keys."""
    from luthier.cli.show import console, share_cores
    from luthier.server.guard import new_keys, read_keys
    from luthier.system.address import listening, loopback

    if keys is None and not loopback(host):
        raise UserError(f"--host {host}: reachable from other machines, so it needs keys: --keys FILE")
    if adapters is not None and (keys is None or not adapters.is_dir()):
        raise UserError(f"--adapters {adapters}: must be a folder, and needs an admin key: --keys FILE")
    pairs = [given.partition("=") for given in adapter or ()]
    if wrong := [name for name, _, folder in pairs if not name or not folder]:
        raise UserError(f"--adapter {wrong[0]}: write NAME=FOLDER")
    share_cores()
    try:
        import uvicorn

        from luthier.server.app import Settings, create
    except ImportError as error:
        raise MissingExtra("luthier serve", str(error.name), "serve") from None
    if keys is not None and not keys.exists():
        console.print(f"key  {new_keys(keys)}  (shown once; {keys} holds its hash)", markup=False)
    known, door = read_keys(keys) if keys else [], listening(host, port)
    from luthier.models.embed import Embedder
    from luthier.models.load import ModelLoader
    from luthier.rollout.rewards import RewardModel
    from luthier.server.models import Models

    loader = ModelLoader()
    models = Models(model, loader, slots=slots, queue=queue)
    for name, _, folder in pairs:
        models.load(name, Path(folder))
    rewards = {Path(path).name: RewardModel(type="model", path=path).open(loader) for path in reward or ()}
    models.others = {"encoder": {path: Embedder.load(path) for path in embedder or ()}, "reward model": rewards}
    app = create(models, Settings(known, adapters, per_key, longest))
    server = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=60)
    address = f"[{host}]" if ":" in host else host
    console.print(f"serving {', '.join(models.names)} at http://{address}:{door.getsockname()[1]}/v1", markup=False)
    uvicorn.Server(server).run(sockets=[door])

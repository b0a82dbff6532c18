"""`luthier deploy MODEL`: from a model to a server that answers, with its address, its key and a line to ask it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from luthier.drive import jobs
from luthier.errors import LuthierError, OutputError
from luthier.system.variables import KEY


def deploy(
    model: Annotated[str, typer.Argument(help="A run, folder, hub id or catalogue name.", show_default=False)],
    *,
    to: Annotated[
        Literal["local", "docker"], typer.Option(help="A server on this machine, or files for containers.")
    ] = "local",
    output: Annotated[
        str, typer.Option("--output", "-o", help="A new folder for keys, and files for containers.", show_default=False)
    ],
    port: Annotated[int, typer.Option(help="Where it listens, on this machine alone.", min=1, max=65535)] = 8000,
    wait: Annotated[int, typer.Option(help="Seconds until it must answer.", min=1)] = 300,
) -> None:
    """Start a server for a model, see that it answers, and say how it is asked."""
    from luthier.cli.show import console

    place, given = Path(output), os.environ.get(KEY, "").strip()
    key = given or f"lk-{secrets.token_urlsafe(32)}"
    if to == "docker":
        from luthier.cli.export import export

        export(model, to="docker", output=output)
    elif place.exists() and any(place.iterdir()):
        raise OutputError(f"{output}: holds something already; choose a new folder")
    place.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(place / "keys", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        file.write(f"first {hashlib.sha256(key.encode()).hexdigest()}\n")
    url = f"http://127.0.0.1:{port}/v1"
    if to == "local":
        command = ["serve", model, "--host", "127.0.0.1", "--port", str(port), "--keys", str(place / "keys")]
        server = jobs.submit(command, about=f"serve-{Path(model).name}", queued=False)
        name = _answering(server, url, key, wait)
        console.print(f"serving  {name} at {url} (luthier jobs stop {server.name} ends it)", markup=False)
    else:
        name = "model"
        console.print(f"start it (cd {output} && docker compose up --build -d), or see kubernetes.yaml", markup=False)
    asked = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    said, header = (
        (f"that of {KEY}", f'"Authorization: Bearer ${KEY}"') if given else (key, f"'Authorization: Bearer {key}'")
    )
    once = "" if given else "shown once; "
    console.print(f"key      {said}  ({once}{place / 'keys'} holds its hash)", markup=False)
    console.print(
        f"ask it   curl {url}/chat/completions -H {header} -H 'Content-Type: application/json' -d '{asked}'",
        markup=False,
    )


def _answering(server: jobs.Job, url: str, key: str, seconds: int) -> str:
    """The name of the model of a server that has answered a question; one that does not is ended."""
    import httpx2 as httpx

    client = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=seconds)
    until, rest = time.monotonic() + seconds, f"luthier jobs log {server.name} has the rest"
    while server.status in jobs.LIVE and time.monotonic() < until:
        try:
            name = str(client.get(f"{url}/models").json()["data"][0]["id"])
            asked = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
            client.post(f"{url}/chat/completions", json=asked).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.5)
        except (httpx.HTTPStatusError, ValueError, LookupError) as error:
            server.stop()
            raise LuthierError(f"{url}: does not answer as it should: {error}; {rest}") from None
        else:
            return name
    server.stop()
    last = (server.log.strip().splitlines() or ["it said nothing"])[-1]
    raise LuthierError(f"the server did not come up within {seconds} seconds: {last}; {rest}")

"""`luthier chat MODEL`: talk to a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.errors import UserError

if TYPE_CHECKING:
    from luthier.data.conversation import Message
    from luthier.inference.hf import HfEngine

HELP = "Type a message; /reset forgets the conversation, /exit (or Ctrl-D) leaves."


def chat(
    model: Annotated[
        str, typer.Argument(help="A folder, hub id, .gguf file, catalogue name or run.", show_default=False)
    ],
    *,
    prompt: Annotated[str | None, typer.Option(help="Answer this one message and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.", min=0)] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens of this total probability.", min=0, max=1)
    ] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 256,
    seed: Annotated[int | None, typer.Option(help="Makes sampled answers repeatable.")] = None,
) -> None:
    """Talk to a model, streaming, with history."""
    from luthier.cli.show import console, share_cores

    share_cores()
    from luthier.config import ModelConfig
    from luthier.data.conversation import Message
    from luthier.inference.engine import Sampling
    from luthier.inference.hf import HfEngine
    from luthier.models.load import ModelLoader

    loader, config = ModelLoader(), ModelConfig(path=model)
    renderer = loader.renderer(config)
    engine = HfEngine(loader.load_for_use(config), renderer)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    start = [Message(role="system", content=system)] if system else []
    if prompt is not None:
        _answer(engine, [*start, Message(role="user", content=prompt)], sampling)
        return
    if sys.stdin.isatty():
        console.print(HELP, style="dim")
    history = list(start)
    while (said := _ask()) is not None:
        if said == "/reset":
            history = list(start)
        elif said:
            asked = [*history, Message(role="user", content=said)]
            try:
                history = [*asked, Message(role="assistant", content=_answer(engine, asked, sampling))]
            except UserError as error:  # this message is forgotten, the conversation goes on
                print(f"not answered: {error}", file=sys.stderr)


def _ask() -> str | None:
    """The next message; None when the user leaves."""
    try:
        said = input("you> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return None if said in ("/exit", "/quit") else said


def _answer(engine: HfEngine, messages: list[Message], sampling: object) -> str:
    from luthier.data.conversation import Conversation

    pieces: list[str] = []
    for piece in engine.stream(Conversation(tuple(messages)), sampling):  # type: ignore[arg-type]
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)

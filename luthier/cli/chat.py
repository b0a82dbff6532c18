"""`luthier chat MODEL`: talk to a model."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.generate import MODEL, KeyVariable, NewTokens, Temperature, TopP, engine
from luthier.errors import UserError

if TYPE_CHECKING:
    from luthier.data.conversation import Message
    from luthier.inference.engine import Engine, Sampling

HELP = (
    "Type a message; /compare base shows what the model said before it was tuned, /reset forgets the conversation, "
    "/exit (or Ctrl-D) leaves."
)


def chat(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    *,
    prompt: Annotated[str | None, typer.Option(help="Answer this one message and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    max_new_tokens: NewTokens = 256,
    seed: Annotated[int | None, typer.Option(help="Makes sampled answers repeatable.")] = None,
    tools: Annotated[Path | None, typer.Option(help="A JSON file with a list of tools that it may call.")] = None,
    key_variable: KeyVariable = None,
) -> None:
    """Talk to a model, streaming, with history."""
    from luthier.cli.show import console
    from luthier.data.conversation import Message
    from luthier.inference.engine import Sampling

    talking = engine(model, key_variable)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    start = [Message(role="system", content=system)] if system else []
    answer = partial(_answer, talking, sampling, _tools(tools) if tools else ())
    if prompt is not None:
        answer([*start, Message(role="user", content=prompt)])
        return
    if sys.stdin.isatty():
        console.print(HELP, style="dim")
    history = list(start)
    while (said := _ask()) is not None:
        if said == "/reset":
            history = list(start)
            continue
        asked = [*history, Message(role="user", content=said)]
        try:  # what is not answered is forgotten, the conversation goes on
            if said == "/compare base":
                with untuned(talking):
                    answer(history[:-1]) if len(history) > len(start) else print("nothing was asked yet")
            elif said:
                history = [*asked, Message(role="assistant", content=answer(asked))]
        except UserError as error:
            print(f"not answered: {error}", file=sys.stderr)


def untuned(talking: Engine) -> AbstractContextManager[Any]:
    """What a model was before it was tuned; raises UserError where that is not there."""
    from luthier.inference.hf import HfEngine

    if not isinstance(talking, HfEngine):
        raise UserError("there is only the tuned model here; name the run, in whose folder its base is known")
    return getattr(talking.model, "disable_adapter", nullcontext)()


def _ask() -> str | None:
    """The next message; None when the user leaves."""
    try:
        said = input("you> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return None if said in ("/exit", "/quit") else said


def _tools(file: Path) -> tuple[Any, ...]:
    """The tools of a file; raises UserError."""
    from luthier.data.conversation import Origin, tools_of

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--tools {file}: {error}") from None
    return tools_of(text, Origin(str(file), 1))


def _answer(engine: Engine, sampling: Sampling, tools: tuple[Any, ...], messages: list[Message]) -> str:
    """Print an answer as it comes, and the tools that it calls."""
    from luthier.data.conversation import Conversation
    from luthier.inference.calls import calls_in

    pieces: list[str] = []
    for piece in engine.stream(Conversation(tuple(messages), tools), sampling):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    for call in calls_in("".join(pieces), {tool["function"]["name"]: tool for tool in tools})[1] if tools else ():
        print(f"-> {call['function']['name']}({call['function']['arguments']})")
    return "".join(pieces)

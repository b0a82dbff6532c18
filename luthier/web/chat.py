"""Talk to a model, and beside it to what it was before; what is liked becomes a file of preferences to train on.

The model answers in a job of its own (`luthier serve`), which the board asks as anyone else could.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import gradio as gr

from luthier.data.conversation import Conversation, Message
from luthier.drive import jobs
from luthier.errors import LuthierError
from luthier.inference.endpoint import EndpointEngine
from luthier.inference.engine import Sampling
from luthier.web.pages import LOOK_SECONDS, NARROW, Board, suggestions

SERVING = re.compile(r"serving (.+) at (http://[\w.:]+/v1)")
LIKED = "data/liked.jsonl"
"""Rows of preferences, below the folder of the board."""
HEIGHT = 320
"""Of each talk, in pixels: both are seen on a phone."""
COMING = {"status": "pending"}
"""What is known of an answer that is not whole yet."""
History = list[dict[str, Any]]


def chat_tab(board: Board, anew: Sequence[Any]) -> tuple[gr.Dropdown, gr.State, gr.Timer]:
    """A model, its base, and what they say to the same words; returns what `talk_to` sets."""
    say = board.say
    model = gr.Dropdown([], allow_custom_value=True, label=say("chat.model"), elem_id="chat-model")
    with gr.Row():
        load = gr.Button(say("chat.load"), variant="primary", elem_id="chat-load")
        unload = gr.Button(say("chat.unload"))
    job, look, told = gr.State(""), gr.Timer(LOOK_SECONDS, active=False), gr.Markdown(elem_id="chat-told")
    with gr.Row():
        tuned = gr.Chatbot(label=say("chat.tuned"), elem_id="tuned", buttons=["copy"], height=HEIGHT)
        base = gr.Chatbot(label=say("chat.base"), elem_id="base", buttons=["copy"], height=HEIGHT)
    with gr.Row():
        temperature = gr.Slider(0, 2, 0, step=0.1, label=say("chat.temperature"), min_width=NARROW)
        longest = gr.Slider(1, 1024, 128, step=1, label=say("chat.longest"), min_width=NARROW)
    words = gr.Textbox(label=say("chat.say"), elem_id="chat-say", submit_btn=True)
    for event in anew:
        gr.on(event, lambda now: _models(board, now), model, model, show_progress="hidden")
    load.click(partial(talk_to, board), model, [model, job, look])
    unload.click(lambda name: jobs.job(name).stop() if name else None, job)
    look.tick(lambda name: _told(board, name), job, [told, look], show_progress="hidden")
    asked = [words, tuned, base, job, temperature, longest]
    words.submit(partial(_answers, board), asked, [words, tuned, base])

    def like(mine: History, other: History, liked: gr.LikeData) -> None:
        _like(board, mine, other, liked)

    for mine, other in ((tuned, base), (base, tuned)):
        mine.like(like, [mine, other], None)
    return model, job, look


def talk_to(board: Board, model: str) -> tuple[str, str, Any]:
    """A model that is chosen and being loaded."""
    return model, _serve(board, model), gr.Timer(active=True)


def _models(board: Board, now: str | None) -> Any:
    found = suggestions(board, "model")
    return gr.Dropdown(found) if now else gr.Dropdown(found, value=next(iter(found), None))


def _serve(board: Board, model: str | None) -> str:
    """A server on a free port; it ends with its job."""
    if not model:
        raise gr.Error(board.say("chat.first"))
    return board.start(["serve", model, "--port", "0"], f"serve-{model}")


def _told(board: Board, name: str) -> tuple[str, Any]:
    """Whether a server can be asked, or why not."""
    if not name:
        return "", gr.Timer(active=False)
    one = jobs.job(name)
    ready, status = SERVING.search(one.log), one.status
    if ready and status == "running":
        return board.say("chat.ready", names=ready[1]), gr.Timer(active=True)
    last = one.log.strip().splitlines()[-1:] or [""]
    return f"{board.say(f'status.{status}')} {last[0]}", gr.Timer(active=status in jobs.LIVE)


def _answers(
    board: Board, words: str, tuned: History, base: History, job: str, temperature: float, longest: int
) -> Iterator[tuple[str, History, History]]:
    """What both say, as it comes."""
    ready = SERVING.search(jobs.job(job).log) if job else None
    if not ready or not words.strip():
        raise gr.Error(board.say("chat.first"))
    asked = {"role": "user", "content": words}
    sides = [[*side, asked, {"role": "assistant", "content": "", "metadata": COMING}] for side in (tuned, base)]
    sampling = Sampling(max_new_tokens=int(longest), temperature=float(temperature))
    streams = []
    for name, side in zip(ready[1].split(", ")[:2], sides, strict=False):
        talk = Conversation(tuple(Message(role=one["role"], content=_text(one["content"])) for one in side[:-1]))
        streams.append(EndpointEngine(ready[2], name).stream(talk, sampling))
    try:
        for pieces in zip_longest(*streams, fillvalue=""):
            for side, piece in zip(sides, pieces, strict=False):
                side[-1]["content"] += piece
            yield "", sides[0], sides[1] if len(streams) > 1 else []
        for side in sides:
            side[-1].pop("metadata")
        yield "", sides[0], sides[1] if len(streams) > 1 else []
    except LuthierError as error:
        raise gr.Error(str(error)) from error


def _text(content: Any) -> str:
    """What a message of the page says: a text, or pieces with one."""
    return content if isinstance(content, str) else "".join(str(piece.get("text", "")) for piece in content)


def _like(board: Board, mine: History, other: History, liked: gr.LikeData) -> None:
    """Keep a preference: of two answers to the same words the one that is better."""
    place = int(liked.index[0] if isinstance(liked.index, tuple | list) else liked.index)
    if mine[place].get("metadata") == COMING:
        raise gr.Error(board.say("chat.coming"))
    if place >= len(other) or other[place]["content"] == mine[place]["content"]:
        return
    texts = [_text(side[place]["content"]) for side in (mine, other)]
    chosen, rejected = texts if liked.liked else texts[::-1]
    prompt = [{"role": one["role"], "content": _text(one["content"])} for one in mine[:place]]
    answers = {"chosen": chosen, "rejected": rejected}
    row = {"prompt": prompt, **{key: [{"role": "assistant", "content": said}] for key, said in answers.items()}}
    (board.folder / LIKED).parent.mkdir(parents=True, exist_ok=True)
    with (board.folder / LIKED).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    gr.Info(board.say("chat.liked", file=LIKED))

"""Talk to a model, and beside it to what it was before; what is liked becomes a file of preferences to train on.

The model answers in a job of its own (`luthier serve`), which the board asks as anyone else could.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr

from luthier.data.conversation import Conversation, Message, Origin, tools_of
from luthier.drive import jobs
from luthier.errors import LuthierError
from luthier.inference.calls import calls_in
from luthier.inference.endpoint import EndpointEngine
from luthier.inference.engine import Sampling
from luthier.system.files import write_text
from luthier.web import shown
from luthier.web.board import LOOK_SECONDS, Board, suggestions
from luthier.web.pages import NARROW

SERVING = re.compile(r"serving (.+) at (http://[\w.:]+/v1)")
LIKED = "data/liked.jsonl"
"""Rows of preferences, below the folder of the board."""
HEIGHT = 320
"""Of each talk, in pixels: both are seen on a phone."""
COMING = {"status": "pending"}
"""What is known of an answer that is not whole yet."""
History = list[dict[str, Any]]


def chat_tab(board: Board, load_page: Any, select: Any) -> tuple[Any, ...]:
    """A model, its base, and what they say to the same words; returns what `talk_to` sets."""
    say = board.say
    model = gr.Dropdown([], allow_custom_value=True, label=say("chat.model"), elem_id="chat-model")
    more = gr.Dropdown([], multiselect=True, label=say("chat.more"), info=say("chat.more_about"), elem_id="chat-more")
    with gr.Row():
        load = gr.Button(say("chat.load"), variant="primary", elem_id="chat-load")
        unload = gr.Button(say("chat.unload"))
        anew_talk = gr.Button(say("chat.anew"), elem_id="chat-anew")
    job, look, told = board.kept("chat", ""), gr.Timer(LOOK_SECONDS, active=False), gr.Markdown(elem_id="chat-told")
    with gr.Row():
        names = [gr.Dropdown([], label=say(f"chat.{side}"), elem_id=f"who-{side}") for side in ("tuned", "base")]
    with gr.Row():
        # what is said is shown as it is: a tag is text, a call of a tool is seen
        looks: Any = {"buttons": ["copy"], "height": HEIGHT, "show_label": False, "render_markdown": False}
        talks = [gr.Chatbot(label=say(f"chat.{side}"), elem_id=side, **looks) for side in ("tuned", "base")]
    with gr.Accordion(say("chat.how"), open=False):
        system = gr.Textbox("", label=say("chat.system"), elem_id="chat-system")
        tools = gr.Textbox("", label=say("chat.tools"), info=say("chat.tools_about"), lines=3, elem_id="chat-tools")
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.1, label=say("chat.temperature"), min_width=NARROW)
            likeliest = gr.Slider(0.05, 1, 1, step=0.05, label=say("chat.top_p"), min_width=NARROW)
            longest = gr.Slider(1, 1024, 128, step=1, label=say("chat.longest"), min_width=NARROW)
    words = gr.Textbox(label=say("chat.say"), elem_id="chat-say", submit_btn=True)
    talking = [model, job, look, *talks]
    gr.on(select, partial(_models, board), model, [model, more], show_progress="hidden")
    gr.on([load_page, select], lambda: gr.Timer(active=True), None, look, show_progress="hidden")
    load.click(partial(talk_to, board), [model, more, job], talking)
    unload.click(partial(_end, board), job)
    anew_talk.click(lambda: ([], []), None, talks)
    look.tick(partial(_told, board), [job, *names], [told, look, *names], show_progress="hidden")
    how = [system, tools, temperature, likeliest, longest]
    words.submit(partial(_answers, board), [words, *talks, *names, job, *how], [words, *talks])

    def like(mine: History, other: History, system: str, tools: str, liked: gr.LikeData) -> None:
        _like(board, mine, other, system, tools, liked)

    for mine, other in (talks, talks[::-1]):
        mine.like(like, [mine, other, system, tools], None)
    return tuple(talking)


def talk_to(board: Board, model: str | None, more: Sequence[str], before: str) -> tuple[Any, ...]:
    """A model that is chosen and being loaded, instead of the one before, on a port that is free; an empty talk."""
    if not model:
        raise gr.Error(board.say("chat.first"))
    adapters = [word for run in more for word in ("--adapter", f"{Path(run).name}={run}")]
    name = board.start(["serve", *adapters, "--port", "0", "--", model], f"serve-{model}")
    _end(board, before)
    return model, name, gr.Timer(active=True), [], []


def _end(board: Board, name: str) -> None:
    if one := board.job(name):
        one.stop()


def _models(board: Board, now: str | None) -> tuple[Any, ...]:
    found = suggestions(board, "model")
    chosen = gr.Dropdown(found) if now else gr.Dropdown(found, value=next(iter(found), None))
    return chosen, gr.Dropdown(board.runs())


def _told(board: Board, name: str, *chosen: str | None) -> tuple[Any, ...]:
    """Whether a server can be asked, or why not; and whom."""
    if not (one := board.job(name)):
        return "", gr.Timer(active=False), *(gr.skip() for _ in chosen)
    ready, status = SERVING.search(one.log), one.status
    if ready and status == "running":
        there = ready[1].split(", ")
        kept = [was if was in there else there[place] if place < len(there) else None
                for place, was in enumerate(chosen)]  # fmt: skip
        return board.say("chat.ready", names=ready[1]), gr.Timer(), *(gr.Dropdown(there, value=one) for one in kept)
    last = one.log.strip().splitlines()[-1:] or [""]
    looks = gr.Timer(active=status in jobs.LIVE)
    return f"{board.say(f'status.{status}')} {last[0]}", looks, *(gr.skip() for _ in chosen)


def _answers(
    board: Board, words: str, tuned: History, base: History, one: str | None, other: str | None, job: str, *how: Any
) -> Iterator[tuple[str, History, History]]:
    """What both say, as it comes; what is not answered is forgotten, and the talk goes on."""
    serving = board.job(job)
    ready = SERVING.search(serving.log) if serving else None
    if not ready or not words.strip() or not (one or other):
        raise gr.Error(board.say("chat.first"))
    system, tools, temperature, likeliest, longest = how
    sampling = Sampling(max_new_tokens=int(longest), temperature=float(temperature), top_p=float(likeliest))
    asked = {"role": "user", "content": shown.literally(words)}
    streams, sides, texts = list[Iterator[str]](), [list(tuned), list(base)], ["", ""]
    try:
        for side, name in zip(sides, (one, other), strict=True):
            if name:
                side.append(asked)
                streams.append(EndpointEngine(ready[2], name).stream(_talk(side, system, tools), sampling))
                side.append({"role": "assistant", "content": "", "metadata": COMING})
        saying = [side for side, name in zip(sides, (one, other), strict=True) if name]
        for pieces in zip_longest(*streams, fillvalue=""):
            for number, (side, piece) in enumerate(zip(saying, pieces, strict=True)):
                texts[number] += piece
                side[-1]["content"] = shown.literally(texts[number])
            yield "", sides[0], sides[1]
    except LuthierError as error:
        yield words, tuned, base
        raise gr.Error(str(error)) from error
    for side in saying:
        side[-1].pop("metadata")
    yield "", sides[0], sides[1]


def _talk(side: History, system: str, tools: str) -> Conversation:
    """What a page shows, as a conversation: what is said to a call of a tool is the tool's result."""
    known = tools_of(tools, Origin("tools", 1)) if tools.strip() else ()
    functions = {str(tool["function"]["name"]): tool["function"] for tool in known}
    turns, calling = [Message(role="system", content=system)] if system.strip() else [], False
    for one in side:
        said, calls = calls_in(_text(one), functions) if one["role"] == "assistant" and known else (_text(one), [])
        for call in calls:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        role = "tool" if calling and one["role"] == "user" else one["role"]
        turns.append(Message(role=role, content=said, tool_calls=tuple(calls)))
        calling = bool(calls)
    return Conversation(tuple(turns), known)


def _text(turn: dict[str, Any]) -> str:
    """What a message of the page says: a text, or pieces with one."""
    content = turn["content"]
    pieces = [content] if isinstance(content, str) else [str(piece.get("text", "")) for piece in content]
    return shown.meant("".join(pieces))


def _like(board: Board, mine: History, other: History, system: str, tools: str, liked: gr.LikeData) -> None:
    """Keep which of two answers to the same words is better; a thumb that is taken back takes its row along."""
    place = int(liked.index[0] if isinstance(liked.index, tuple | list) else liked.index)
    if mine[place].get("metadata") == COMING:
        raise gr.Error(board.say("chat.coming"))
    if place >= len(other) or list(map(_text, mine[:place])) != list(map(_text, other[:place])):
        raise gr.Error(board.say("chat.apart"))
    talks = [_talk(side[: place + 1], system, tools) for side in (mine, other)]
    answers = [talk.messages[-1].for_template() for talk in talks]
    if answers[0] == answers[1]:
        raise gr.Error(board.say("chat.equal"))
    prompt = [message.for_template() for message in talks[0].messages[:-1]]
    better, worse = answers if liked.liked else answers[::-1]
    row = {"prompt": prompt, "chosen": [better], "rejected": [worse]} | (
        {"tools": list(talks[0].tools)} if tools else {}
    )
    file = board.folder / LIKED
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    said = [row, row | {"chosen": [worse], "rejected": [better]}]  # the same answers: only the last word counts
    rows = [line for line in lines if json.loads(line) not in said]
    taken_back = liked.liked not in (True, False)
    write_text(file, (f"{line}\n" for line in [*rows, *([] if taken_back else [json.dumps(row, ensure_ascii=False)])]))
    gr.Info(board.say("chat.unliked" if taken_back else "chat.liked", file=LIKED))

"""The board as a web application: a page for each language, on loopback, with nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse

from luthier.supplies import shipped
from luthier.web.board import Board
from luthier.web.chat import chat_tab, talk_to
from luthier.web.first import first_tab
from luthier.web.guard import MOST_BYTES, foreign
from luthier.web.pages import command_tab, data_tab
from luthier.web.runs import runs_tab
from luthier.web.texts import LANGUAGES, Speaker, preferred
from luthier.web.train import train_tab

COMMANDS = {
    "evaluate": ("evaluate", "compare"),
    "models": ("models list", "models fetch", "models merge", "models register", "models show", "models export-card",
               "models diff", "models promote", "models rollback", "reproduce"),
    "ship": ("export", "verify", "deploy", "generate"),
    "tools": ("doctor", "check", "plan", "config explain", "plugins", "migrate"),
}  # fmt: skip
"""Tabs that are commands, and nothing else."""
HOUR = 3600
"""Seconds that an upload is kept for; what is taken of it is copied at once."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; base-uri 'self'"


def page(board: Board) -> gr.Blocks:
    """The board in one language."""
    say = board.say
    demo: gr.Blocks
    with gr.Blocks(title="Luthier", analytics_enabled=False, fill_width=False, delete_cache=(HOUR, HOUR)) as demo:
        others = " · ".join(
            f"<b>{name}</b>" if code == say.language else f'<a href="/{code}/" lang="{code}">{name}</a>'
            for code, name in LANGUAGES.items()
        )
        gr.HTML(f"<h1>Luthier</h1><p>{say('app.about')} — {others}</p>", elem_id="head")
        with gr.Tabs() as tabs:
            with gr.Tab(say("tab.first"), id="first") as tab:
                talk, way = first_tab(board, demo.load, tab.select)
            with gr.Tab(say("tab.data"), id="data") as tab:
                data_tab(board, [demo.load, tab.select])
            with gr.Tab(say("tab.train"), id="train") as tab:
                train_tab(board, [demo.load, tab.select])
            with gr.Tab(say("tab.runs"), id="runs") as tab:
                runs_tab(board, tabs, tab)
            with gr.Tab(say("tab.chat"), id="chat") as tab:
                talking = chat_tab(board, demo.load, tab.select)
            for name, words in COMMANDS.items():
                with gr.Tab(say(f"tab.{name}"), id=name) as tab:
                    command_tab(board, name, words, [tab.select])
        job = talking[1]
        talk.click(
            lambda way, job: (gr.Tabs(selected="chat"), *talk_to(board, way["run"], [], job)),
            [way, job],
            [tabs, *talking],
        )
    return demo


def application(folder: Path, root: Any, *, users: Sequence[tuple[str, str]] = ()) -> FastAPI:
    """The whole board of a folder and a command line; with users, only they see it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    def first(request: Request) -> RedirectResponse:
        return RedirectResponse(f"/{preferred(request.headers.get('accept-language', ''))}")

    icon = str(files("luthier.web").joinpath("text", "icon.svg"))
    app.get("/favicon.ico")(lambda: FileResponse(icon))
    app.get("/manifest.json")(lambda: {"name": "Luthier", "icons": [{"src": "/favicon.ico", "sizes": "any"}]})

    @app.middleware("http")
    async def guarded(request: Request, call_next: Any) -> Any:
        refused = foreign(request.headers, known=bool(users))
        answer = PlainTextResponse("asked by another site", 403) if refused else await call_next(request)
        answer.headers["Content-Security-Policy"] = POLICY
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    soft = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    looks: Any = {
        "theme": soft.set(**shipped("luthier.web", "text/theme.yaml")["page"]),
        "css": files("luthier.web").joinpath("text", "board.css").read_text(encoding="utf-8"),
    }
    rules: Any = {"auth": list(users) or None, "max_file_size": MOST_BYTES, "show_error": True}
    for language in LANGUAGES:
        shown = page(Board(folder.resolve(), root, Speaker(language)))
        app = gr.mount_gradio_app(app, shown, f"/{language}", footer_links=[], run_history=False, **rules, **looks)
    return app

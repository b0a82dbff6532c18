"""What each chat template makes of an assistant's message: the oracle of the loss mask.

Written by hand from the published formats (SmolLM2, Qwen2, Llama-2-chat, Llama-3.1-Instruct, Mistral-7B-Instruct-v0.3,
Mistral-Small-3.2, gemma-2-it, Phi-3.5-mini-instruct, Qwen3, DeepSeek-R1, GLM-4, gpt-oss), never by rendering: the text
that the model must generate, which turns cannot share a sequence because the template rewrites the earlier one, and
which conversations are refused for what reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data import conversation as layout
from luthier.data.conversation import Conversation, Message, Origin

HERE = Path(__file__).parent
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama-3, Qwen, DeepSeek and GLM cut text into words: newlines in a row are one."""


def load_conversations() -> dict[str, Conversation]:
    """The conversations beside this file, and one that is too long to write down."""
    rows = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
    rows["long"] = {
        "messages": [
            {"role": "user", "content": "Write a lot."},
            {"role": "assistant", "content": "".join(f"Line {i}, and so on; " for i in range(1000)) + "end."},
        ]
    }
    place = Origin("conversations.json", 1)
    return {
        name: layout.conversation(
            [layout.message(m, place, i) for i, m in enumerate(row["messages"])], place, row.get("tools")
        )
        for name, row in rows.items()
    }


CONVERSATIONS = load_conversations()

Says = Callable[[Message], str]
Apart = Callable[[Sequence[Message], int, int], bool]
"""Whether the assistant's turn at one place cannot share a sequence with that at a later place."""


def thought(message: Message) -> tuple[str, str]:
    """What is thought and what is said, wherever the row holds the thoughts."""
    if message.reasoning is None and "</think>" in message.content:
        before, after = message.content.partition("</think>")[0], message.content.rpartition("</think>")[2]
        return before.rpartition("<think>")[2], after
    return message.reasoning or "", message.content


def spoken(message: Message) -> bool:
    """Whether there is nothing but text: no call, no tool, no thought."""
    return message.role != "tool" and not message.tool_calls and not thought(message)[0]


def call_json(call: Mapping[str, Any], key: str = "arguments") -> str:
    function = call["function"]
    return f'{{"name": "{function["name"]}", "{key}": {json.dumps(function["arguments"], ensure_ascii=False)}'


def says_llama3(m: Message) -> str:
    return (call_json(m.tool_calls[0], "parameters") + "}" if m.tool_calls else m.content.strip()) + "<|eot_id|>"


def says_mistral(m: Message) -> str:
    calls = ", ".join(f'{call_json(call)}, "id": "{call["id"]}"}}' for call in m.tool_calls)
    return f"[TOOL_CALLS] [{calls}]</s>" if calls else f" {m.content.strip()}</s>"


def says_mistral_args(m: Message) -> str:
    calls = [call["function"] for call in m.tool_calls]
    return m.content + "".join(f"[TOOL_CALLS]{c['name']}[ARGS]{json.dumps(c['arguments'])}" for c in calls) + "</s>"


def says_qwen3(m: Message) -> str:
    reasoning, content = thought(m)
    content = content.lstrip("\n")
    calls = "\n".join(f"<tool_call>\n{call_json(call)}}}\n</tool_call>" for call in m.tool_calls)
    between = "\n" if calls and content else ""
    return "<think>\n" + reasoning.strip("\n") + "\n</think>\n\n" + content + between + calls + "<|im_end|>"


def says_deepseek(m: Message) -> str:
    """The generation prompt has opened the thoughts already."""
    if m.reasoning is not None:
        return f"{m.reasoning}\n</think>\n\n{m.content}<｜end▁of▁sentence｜>"
    return m.content.removeprefix("<think>\n") + "<｜end▁of▁sentence｜>"


def says_glm4(m: Message) -> str:
    """No turn is closed, so the tokenizer's end token closes it."""
    calls = [f"{c['function']['name']}\n{json.dumps(c['function']['arguments'])}" for c in m.tool_calls]
    return ("<|assistant|>".join(calls) or "\n" + m.content) + "<|endoftext|>"


def says_marked(m: Message) -> str:
    return m.content + "".join(f"<tool_call>{call_json(call)}}}</tool_call>" for call in m.tool_calls) + "<|im_end|>"


def never(messages: Sequence[Message], turn: int, later: int) -> bool:
    return False


def always(messages: Sequence[Message], turn: int, later: int) -> bool:
    return True


def merges(messages: Sequence[Message], turn: int, later: int) -> bool:
    """The header ends with a newline, which in history is one token with the newlines of the answer."""
    return messages[turn].content.startswith("\n")


def asked_between(messages: Sequence[Message], turn: int, later: int) -> bool:
    return any(m.role == "user" for m in messages[turn:later])


def apart_mistral(messages: Sequence[Message], turn: int, later: int) -> bool:
    """System prompt and tools stand before the last question only; the prompt only where that is the last message."""
    with_system = messages[0].role == "system"
    with_tools = any(m.tool_calls for m in messages)
    return with_system or (with_tools and asked_between(messages, turn, later))


def apart_qwen3(messages: Sequence[Message], turn: int, later: int) -> bool:
    """Thoughts leave history with the next question, an empty one as soon as anything follows."""
    return asked_between(messages, turn, later) or (later > turn + 1 and not thought(messages[turn])[0])


def says_harmony(m: Message) -> str:
    """The generation prompt ends within the header, so the first header is not the model's to say."""
    if m.tool_calls:
        parts = [m.content and f"<|channel|>analysis<|message|>{m.content}<|end|>"]
        call = m.tool_calls[0]["function"]
        parts += [
            f" to=functions.{call['name']}<|channel|>commentary json<|message|>{json.dumps(call['arguments'])}<|call|>"
        ]
    else:
        parts = [m.reasoning and f"<|channel|>analysis<|message|>{m.reasoning}<|end|>"]
        parts += [f"<|channel|>final<|message|>{m.content}<|return|>"]
    return "<|start|>assistant".join(part for part in parts if part)


def apart_harmony(messages: Sequence[Message], turn: int, later: int) -> bool:
    """A call stands in history as it was said, its analysis until the answer; an answer ends there with `<|end|>`."""
    answered = any(m.role == "assistant" and not m.tool_calls for m in messages[turn + 1 : later])
    return not messages[turn].tool_calls or (bool(messages[turn].content) and answered)


@dataclass(frozen=True)
class Shape:
    """A template and its tokenizer; `special` are control tokens, `words` added tokens that are not."""

    says: Says
    special: Sequence[str]
    end: str
    refused: Mapping[str, str]
    apart: Apart = never
    words: Sequence[str] = ()
    bos: str | None = None
    eos: str | None = None
    stops: Sequence[str] = ()
    pattern: str | None = None
    swallows: Sequence[str] = ()
    """Control tokens that take the white space behind them."""
    rewrites: bool = False
    """What is told of a turn does not begin with the prompt that it answers."""


ALL_TOOLS = ("tools", "tools_then_question", "tools_unused", "parallel_calls", "content_and_call", "thought_and_call")
EVERYWHERE = {"assistant_first": "template", "none_trained": "no-supervised-token"}
NO_REASONING = EVERYWHERE | dict.fromkeys(("reasoning_field", "thought_and_call"), "drops-answer")
NO_TOOLS = NO_REASONING | dict.fromkeys(ALL_TOOLS, "drops-tools") | {"call_without_list": "drops-answer"}
ALTERNATE = dict.fromkeys(("two_users", "two_assistants"), "template")
NO_TOOL_ROLE = NO_TOOLS | ALTERNATE | dict.fromkeys(set(ALL_TOOLS) - {"tools_unused", "content_and_call"}, "template")
NO_CONTENT_WITH_CALL = NO_REASONING | {"content_and_call": "drops-answer"}
SPOKEN = [n for n, t in CONVERSATIONS.items() if n not in EVERYWHERE and all(spoken(m) for m in t.messages)]
WITHOUT_THOUGHTS = {n for n in CONVERSATIONS if not n.startswith(("thinking", "reasoning", "none_trained"))}
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>")
MISTRAL = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PHI3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

SHAPES = {
    "chatml": Shape(lambda m: m.content + "<|im_end|>", CHATML, "<|im_end|>", NO_TOOLS, merges),
    "chatml_system": Shape(lambda m: m.content + "<|im_end|>", CHATML, "<|im_end|>", NO_TOOLS, merges, pattern=CL100K),
    "llama2": Shape(lambda m: f" {m.content.strip()} </s>", ("<unk>", "<s>", "</s>"), "</s>", NO_TOOL_ROLE, bos="<s>"),
    "llama3": Shape(
        says_llama3,
        ("<|begin_of_text|>", "<|end_of_text|>", *HEADERS),
        "<|eot_id|>",
        NO_CONTENT_WITH_CALL | {"parallel_calls": "template"},
        bos="<|begin_of_text|>",
        stops=("<|end_of_text|>", "<|eom_id|>"),
        pattern=CL100K,
    ),
    "mistral": Shape(
        says_mistral,
        ("<unk>", "<s>", "</s>", *MISTRAL, "[/TOOL_RESULTS]"),
        "</s>",
        NO_CONTENT_WITH_CALL | ALTERNATE,
        apart_mistral,
        bos="<s>",
        rewrites=True,
    ),
    "mistral_args": Shape(
        says_mistral_args,
        ("<unk>", "<s>", "</s>", *MISTRAL, "[/TOOL_RESULTS]", "[ARGS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        "</s>",
        NO_REASONING | ALTERNATE,
        bos="<s>",
    ),
    "gemma": Shape(
        lambda m: m.content.strip() + "<end_of_turn>",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        NO_TOOL_ROLE | dict.fromkeys(("system", "system_multi_turn", "question_repeated"), "template"),
        bos="<bos>",
        eos="<eos>",
    ),
    "phi3": Shape(
        lambda m: m.content + "<|end|>",
        ("<unk>", "<s>", "<|endoftext|>", *PHI3),
        "<|end|>",
        NO_TOOLS,
        eos="<|endoftext|>",
        swallows=PHI3,
    ),
    "qwen3": Shape(
        says_qwen3,
        CHATML,
        "<|im_end|>",
        EVERYWHERE,
        apart_qwen3,
        rewrites=True,
        words=("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        stops=("<|endoftext|>",),
        pattern=CL100K,
    ),
    "deepseek_r1": Shape(
        says_deepseek,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"),
        "<｜end▁of▁sentence｜>",
        EVERYWHERE | dict.fromkeys(WITHOUT_THOUGHTS, "template") | dict.fromkeys(ALL_TOOLS, "drops-tools"),
        always,
        words=("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"),
        bos="<｜begin▁of▁sentence｜>",
        pattern=CL100K,
        rewrites=True,
    ),
    "glm4": Shape(
        says_glm4,
        GLM,
        "<|endoftext|>",
        NO_CONTENT_WITH_CALL,
        always,
        stops=("<|user|>", "<|observation|>"),
        pattern=CL100K,
    ),
    "harmony": Shape(
        says_harmony,
        ("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
        "<|return|>",
        EVERYWHERE | {"parallel_calls": "drops-answer", "thought_and_call": "template"},
        apart_harmony,
        stops=("<|call|>", "<|endoftext|>"),
        pattern=CL100K,
    ),
    "marked": Shape(says_marked, CHATML, "<|im_end|>", NO_REASONING, merges),
    "stripped": Shape(lambda m: m.content.strip() + "</s>", ("<unk>", "<s>", "</s>"), "</s>", NO_TOOLS),
}

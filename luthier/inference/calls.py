"""Calls of tools in what models say: between tags (Hermes, Qwen), or JSON and nothing else."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.data.strict import read_json

CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def calls_in(text: str, tools: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """An answer's text, and its calls of these tools as OpenAI's API writes them."""
    tagged = CALL.findall(text)
    calls = []
    for said in tagged or [text]:
        try:
            value = read_json(said.strip())
        except ValueError:
            return text, []
        for call in value if isinstance(value, list) else [value]:
            if not isinstance(call, dict) or call.get("name") not in tools:
                return text, []
            arguments = call.get("arguments", call.get("parameters")) or {}
            function = {"name": call["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
            calls.append({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
    return (CALL.sub("", text).strip() if tagged else ""), calls


def spelled(calls: Sequence[Mapping[str, str]]) -> str:
    """Calls of functions as models spell them."""
    texts = [f'{{"name": {json.dumps(call["name"])}, "arguments": {call["arguments"] or "{}"}}}' for call in calls]
    return "".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)

"""Conversations into token ids with a loss mask, through the model's own chat template.

The rule that everything here follows from: **a token is supervised only behind exactly the ids that serving would
feed**. For each assistant turn, what serving feeds is the template's text of all earlier messages with the generation
prompt; what the model must say is how the template goes on, up to and with one end-of-turn token. Turns whose view is a
prefix of the whole conversation's ids share one sequence; a turn that the template rewrites later (thinking removed
from history, tokens merged across the border) becomes a sequence of its own, so nothing is ever masked wrongly.

Luthier owns the mask, never the text. Knows no file layout, no objective and no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.conversation import Conversation, Message, Text
from luthier.errors import RowError, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINKING = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence: ids `[T]` and, for each token, the weight of its prediction `[T]` (0: not supervised)."""

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """Tokens with a weight above 0. The first token has no predictor and never counts."""
        return int(np.count_nonzero(self.weights))


@dataclass(frozen=True, slots=True)
class _Turn:
    """One assistant turn as serving sees it: the prompt's ids, the answer's ids (end token included), its weight."""

    prompt: list[int]
    answer: list[int]
    weight: float


class Renderer:
    """Renders for one tokenizer. `stop_ids` are the ids that end generation in serving."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.options = dict(options or {})
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(stop_ids) | (frozenset() if eos is None else {int(eos)})
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        stops = {str(tokenizer.convert_ids_to_tokens(stop)) for stop in self.stop_ids}
        self.control = tuple(sorted(special | stops, key=len, reverse=True))
        self._control = re.compile("|".join(re.escape(token) for token in self.control) or r"(?!)")

    # ---- what serving feeds ----------------------------------------------------------------------------------

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text that makes the model answer these messages."""
        return self._template(messages, tools, answer_next=True)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The ids that make the model answer these messages."""
        return self.encode(self.prompt_text(messages, tools))

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text; adds nothing, since the template has written every control token."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # ---- what training sees ----------------------------------------------------------------------------------

    def conversation(self, conversation: Conversation) -> list[Tokens]:
        """One sequence for all assistant turns that share their history's ids, one more for each that does not.

        Raises:
            RowError: without a place, for the caller to add: `template` (the template refuses these messages),
                `drops-answer`, `drops-tools`, `control-token`, `no-supervised-token`.
            TemplateError: the template marks other tokens as generated than those the model must say.
        """
        trained = [i for i, m in enumerate(conversation.messages) if m.role == "assistant" and m.weight > 0]
        if not trained:
            raise RowError("", "no-supervised-token", "no assistant message is to be learnt (all have train: false)")
        self._require_tools_written(conversation)
        sequences: list[tuple[list[int], NDArray[np.float32]]] = []
        for index in reversed(trained):
            turn = self._turn(conversation, index)
            ids = turn.prompt + turn.answer
            home = next((s for s in sequences if s[0][: len(ids)] == ids), None)
            if home is None:
                home = (ids, np.zeros(len(ids), dtype=np.float32))
                sequences.append(home)
            home[1][len(turn.prompt) : len(ids)] = turn.weight
        return [Tokens(np.asarray(ids, dtype=np.int32), weights) for ids, weights in reversed(sequences)]

    def whole(self, content: Conversation | Text) -> Tokens:
        """A text (or a conversation as its template writes it) with every token supervised, and one end token."""
        if isinstance(content, Text):
            ids = list(self.tokenizer(content.text)["input_ids"])
        else:
            ids = self.encode(self._template(content.messages, content.tools, answer_next=False))
        eos = self.tokenizer.eos_token_id
        if eos is not None and ids[-1:] != [eos] and isinstance(content, Text):
            ids.append(int(eos))
        weights = np.ones(len(ids), dtype=np.float32)
        weights[:1] = 0
        return Tokens(np.asarray(ids, dtype=np.int32), weights)

    # ---- one turn ----------------------------------------------------------------------------------------------

    def _turn(self, conversation: Conversation, index: int) -> _Turn:
        before, message = conversation.messages[:index], conversation.messages[index]
        self._require_no_control(message)
        prompt = self._template(before, conversation.tools, answer_next=True)
        told = self._template(conversation.messages[: index + 1], conversation.tools, answer_next=False)
        answer = told[len(prompt) :] if told.startswith(prompt) else self._reopened(prompt, told, message)
        answer = self._up_to_end(answer, message)
        self._require_agreement(conversation, index, answer)
        prompt_ids = self.encode(prompt)
        both = self.encode(prompt + answer)
        shared = both[: len(prompt_ids)] == prompt_ids
        return _Turn(prompt_ids, both[len(prompt_ids) :] if shared else self.encode(answer), message.weight)

    def _reopened(self, prompt: str, told: str, message: Message) -> str:
        """The answer where the generation prompt already writes the start of it (DeepSeek-R1: `<think>`)."""
        common = next((i for i, (a, b) in enumerate(zip(prompt, told, strict=False)) if a != b), len(told))
        opening = prompt[common:]
        said = message.content
        if message.reasoning is not None and "<think>" not in said:
            said = f"<think>\n{message.reasoning.strip()}\n</think>\n\n{said}"
        if not opening.strip() or not said.lstrip().startswith(opening.strip()):
            detail = f"the template starts every answer with {opening!r}, and this answer does not"
            raise RowError("", "template", detail)
        visible = _THINKING.sub("", said).strip()
        end = told.rfind(visible) + len(visible)
        if not visible or end < len(visible):
            raise RowError("", "drops-answer", f"the template does not write the answer {visible[:60]!r}")
        rest = said.lstrip()[len(opening.strip()) :]
        white = opening[len(opening.rstrip()) :]  # the prompt ends with it, so the answer must not begin with it
        return rest.removeprefix(white).rstrip() + told[end:]

    def _up_to_end(self, answer: str, message: Message) -> str:
        """The answer cut behind its end-of-turn token: the first control token after everything that is said.

        A template that closes a turn with nothing (GLM, plain text) gets the tokenizer's own end token, which is what
        generation stops at.
        """
        end = 0
        for piece in self._said(message):
            place = answer.rfind(piece)
            if place < 0:
                raise RowError(
                    "", "drops-answer", f"the template does not write what the assistant says: {piece[:60]!r}"
                )
            end = max(end, place + len(piece))
        closing = self._control.search(answer, end)
        if closing:
            return answer[: closing.end()]
        if self.tokenizer.eos_token is None:
            raise TemplateError("the chat template closes no turn and the tokenizer has no end token")
        return answer[:end] + str(self.tokenizer.eos_token)

    def _said(self, message: Message) -> list[str]:
        """The pieces of text that must all stand in the rendered answer."""
        visible = (
            _THINKING.sub("", message.content).strip() if "</think>" in message.content else message.content.strip()
        )
        thoughts = [match.strip() for match in _THINKING.findall(message.content)]
        thoughts += [message.reasoning.strip()] if message.reasoning else []
        calls = [str(call["function"]["name"]) for call in message.tool_calls]
        return [piece for piece in (*thoughts, visible, *calls) if piece]

    # ---- what must hold ----------------------------------------------------------------------------------------

    def _require_no_control(self, message: Message) -> None:
        found = self._control.search(message.content) or self._control.search(message.reasoning or "")
        if found:
            detail = f"the answer holds the text of the control token {found[0]}, which would end or break the turn"
            raise RowError("", "control-token", detail)

    def _require_tools_written(self, conversation: Conversation) -> None:
        """A template that ignores tools would train answers to calls that serving never explains."""
        if not conversation.tools:
            return
        text = self._template(conversation.messages, conversation.tools, answer_next=False)
        missing = [t["function"].get("name") for t in conversation.tools if str(t["function"].get("name")) not in text]
        if missing:
            detail = f"the chat template does not write the tool {missing[0]!r}; use a template that knows tools"
            raise RowError("", "drops-tools", detail)

    def _require_agreement(self, conversation: Conversation, index: int, answer: str) -> None:
        """Where the template itself marks `{% generation %}`, both must name the same text, end token aside."""
        if not _GENERATION.search(self._source()):
            return
        messages = [m.for_template() for m in conversation.messages[: index + 1]]
        encoded = self.tokenizer.apply_chat_template(
            messages,
            tools=[dict(tool) for tool in conversation.tools] or None,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **self.options,
        )
        marks = np.asarray(encoded["assistant_masks"])
        spans = np.flatnonzero(marks)
        start = spans[np.flatnonzero(np.diff(spans, prepend=-2) > 1)[-1]] if len(spans) else len(marks)
        marked = self.tokenizer.decode(np.asarray(encoded["input_ids"])[start:][marks[start:] == 1])
        if self._control.sub("", str(marked)).strip() != self._control.sub("", answer).strip():
            raise TemplateError(
                f"the chat template marks {str(marked)[:200]!r} as generated, but after its generation prompt "
                f"the model must say {answer[:200]!r}; correct the template or set model.chat_template"
            )

    # ---- the template ------------------------------------------------------------------------------------------

    def _source(self) -> str:
        return str(self.tokenizer.get_chat_template())

    def _template(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, answer_next: bool) -> str:
        import jinja2

        try:
            text = self.tokenizer.apply_chat_template(
                [message.for_template() for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=answer_next,
                tokenize=False,
                **self.options,
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise RowError("", "template", f"the chat template refuses these messages: {error}") from None
        except ValueError as error:
            raise TemplateError(f"no chat template: {error}; set model.chat_template to a .jinja file") from None
        return str(text)

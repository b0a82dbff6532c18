"""Conversations into token ids with a loss mask, through the model's own chat template.

The rule that everything here follows from: **a token is supervised only behind exactly the ids that serving would
feed**. For each assistant turn, what serving feeds is the template's text of all earlier messages with the generation
prompt; what the model must say is how the template goes on, up to and with one end-of-turn token. Turns whose view is a
prefix of the whole conversation's ids share one sequence; a turn that the template rewrites later (thinking removed
from history, tokens merged across the border) becomes a sequence of its own, so nothing is ever masked wrongly.

Luthier owns the mask, never the text. Knows no file layout, no objective and no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.conversation import Conversation, Message, Text
from luthier.errors import RowError, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINKING = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_THINKING_TAG = re.compile(r"</?think>")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_BLANK = "\udfff"
"""Stands for text that is accounted for; half of a character, so that no row can hold it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence: ids `[T]` and, for each token, the weight of its prediction `[T]` (0: not supervised)."""

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def unsupervised(cls, ids: Sequence[int]) -> Tokens:
        """Context only."""
        return cls(np.asarray(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.float32))

    @property
    def supervised(self) -> int:
        """Tokens with a weight above 0. The first token has no predictor and never counts."""
        return int(np.count_nonzero(self.weights[1:]))


@dataclass(frozen=True, slots=True)
class Rendered:
    """One sequence of a conversation, and the message whose answer it ends with."""

    tokens: Tokens
    last: int


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
        stops = (tokenizer.convert_ids_to_tokens(stop) for stop in self.stop_ids)
        self._stops = frozenset(str(token) for token in stops if token is not None)  # None: beyond the vocabulary
        self.control = tuple(sorted(special | self._stops, key=len, reverse=True))
        self._control = re.compile("|".join(re.escape(token) for token in self.control) or r"(?!)")

    # ---- what serving feeds ----------------------------------------------------------------------------------

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text that makes the model answer these messages."""
        return self.template(messages, tools, answer_next=True)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The ids that make the model answer these messages."""
        return self.encode(self.prompt_text(messages, tools))

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text; adds nothing, since the template has written every control token."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def opening(self, text: str) -> list[int]:
        """The ids of a text that is to go on, as `whole` begins it."""
        ids: list[int] = self.whole(Text(text)).ids.tolist()
        return ids if self.tokenizer.eos_token_id is None else ids[:-1]

    # ---- what training sees ----------------------------------------------------------------------------------

    def conversation(self, conversation: Conversation) -> list[Tokens]:
        """One sequence for all assistant turns that share their history's ids, one more for each that does not.

        Raises:
            RowError: without a place, for the caller to add: `template` (the template refuses these messages),
                `drops-answer`, `drops-tools`, `control-token`, `empty-answer`, `no-supervised-token`.
            TemplateError: the template marks other tokens as generated than those the model must say.
        """
        return [rendered.tokens for rendered in self.rendered(conversation)]

    def rendered(self, conversation: Conversation) -> list[Rendered]:
        """The same sequences, each with the message that it ends with; raises as `conversation` does."""
        trained = [i for i, m in enumerate(conversation.messages) if m.role == "assistant" and m.weight > 0]
        if not trained:
            raise RowError("", "no-supervised-token", "no assistant message is to be learnt (all have train: false)")
        self._require_tools_written(conversation)
        sequences: list[tuple[list[int], NDArray[np.float32], int]] = []
        for index in reversed(trained):
            prompt, answer = self._turn(conversation, index)
            ids = prompt + answer
            home = next((s for s in sequences if s[0][: len(ids)] == ids), None)
            if home is None:
                home = (ids, np.zeros(len(ids), dtype=np.float32), index)
                sequences.append(home)
            home[1][max(1, len(prompt)) : len(ids)] = conversation.messages[index].weight
        return [
            Rendered(Tokens(np.asarray(ids, np.int32), weights), last) for ids, weights, last in reversed(sequences)
        ]

    def whole(self, content: Conversation | Text) -> Tokens:
        """A text (or a conversation as its template writes it) with every token supervised, and one end token."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if isinstance(content, Text):
            ids = list(self.tokenizer(content.text)["input_ids"])
            closed = ids[-1:] == [eos]
        else:
            text = self.template(content.messages, content.tools, answer_next=False)
            ids, closed = self.encode(text), text.rstrip().endswith(self.control)
        if bos is not None and ids[:2] == [bos, bos]:
            del ids[0]  # the text begins with the token that the tokenizer adds
        if eos is not None and ids[-2:] == [eos, eos]:
            del ids[-1]
        if eos is not None and not closed:
            ids.append(int(eos))
        weights = np.ones(len(ids), dtype=np.float32)
        weights[:1] = 0
        return Tokens(np.asarray(ids, dtype=np.int32), weights)

    def scored(self, conversation: Conversation) -> Tokens:
        """A conversation as its template writes it; supervised is the token at which a scoring model is read.

        That is the last one that is not the padding token: transformers reads its sequence classifiers there.
        """
        text = self.template(conversation.messages, conversation.tools, answer_next=False)
        ids = np.asarray(self.encode(text), dtype=np.int32)
        weights = np.zeros(len(ids), dtype=np.float32)
        padding = self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        weights[np.flatnonzero(ids != padding)[-1]] = 1
        return Tokens(ids, weights)

    def continued(self, before: str, said: str, *, special: bool) -> Tokens:
        """A text as it stands and how it goes on, which is supervised; `special`: the tokenizer may add its start."""
        head, whole = (
            list(self.tokenizer(text, add_special_tokens=special)["input_ids"]) for text in (before, before + said)
        )
        rest = whole[len(head) :] if whole[: len(head)] == head else self.encode(said)
        weights = np.repeat(np.asarray([0, 1], np.float32), [len(head), len(rest)])
        return Tokens(np.asarray(head + rest, np.int32), weights)

    # ---- one turn ----------------------------------------------------------------------------------------------

    def _turn(self, conversation: Conversation, index: int) -> tuple[list[int], list[int]]:
        """One assistant turn as serving sees it: the prompt's ids, and the answer's, its end token included."""
        before, message = conversation.messages[:index], conversation.messages[index]
        self._require_no_control(message)
        pieces = self._said(message)
        prompt = self.template(before, conversation.tools, answer_next=True)
        told = self.template(conversation.messages[: index + 1], conversation.tools, answer_next=False)
        border = None if told.startswith(prompt) else self._border(prompt, before, conversation.tools)
        if border is None:
            answer = told[len(prompt) :]
        elif border and told.count(border) == prompt.count(border):
            answer = told[told.rfind(border) + len(border) :]
        else:
            answer = self._reopened(prompt, told, message)
        answer = self._up_to_end(answer, pieces, message)
        self._require_agreement(conversation, index, answer)
        prompt_ids = self.encode(prompt)
        both = self.encode(prompt + answer)
        shared = both[: len(prompt_ids)] == prompt_ids
        return prompt_ids, both[len(prompt_ids) :] if shared else self.encode(answer)

    def _border(self, prompt: str, before: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        """The end of the prompt from the text of the last message on; empty if that is not to be found.

        Mistral writes the system prompt before the last message, and only if that is the user's: it stands in the
        prompt, but no longer in front of an answer. The border between question and answer is the same in both.
        """
        asked = before[-1].content.strip()
        place = self.template(before, tools, answer_next=False).rfind(asked)  # not in the generation prompt
        return prompt[place:] if asked and prompt[max(place, 0) :].startswith(asked) else ""

    def _reopened(self, prompt: str, told: str, message: Message) -> str:
        """The answer where the generation prompt already writes the start of it (DeepSeek-R1: `<think>`)."""
        common = next((i for i, (a, b) in enumerate(zip(prompt, told, strict=False)) if a != b), len(told))
        tag = prompt.rfind("<", 0, common)
        if tag >= 0 and ">" not in prompt[tag:common]:
            common = tag  # an answer that begins with `<b>` shares the first character of `<think>`
        opening = prompt[common:]
        said = message.content
        if message.reasoning is not None and "<think>" not in said:
            said = f"<think>\n{message.reasoning.strip()}\n</think>\n\n{said}"
        if not opening.strip() or not said.lstrip().startswith(opening.strip()):
            detail = f"the template starts every answer with {opening[-80:]!r}, and this answer does not"
            raise RowError("", "template", detail)
        visible = _THINKING.sub("", said).strip()
        place = self._without_control(told[common:]).rfind(visible)
        if not visible or place < 0:
            raise RowError("", "drops-answer", f"the template does not write the answer {visible[:60]!r}")
        rest = said.lstrip()[len(opening.strip()) :]
        white = opening[len(opening.rstrip()) :]  # the prompt ends with it, so the answer must not begin with it
        return rest.removeprefix(white).rstrip() + told[common + place + len(visible) :]

    def _up_to_end(self, answer: str, pieces: Sequence[str], message: Message) -> str:
        """The answer cut behind its end-of-turn token.

        A template that closes a turn with nothing (GLM, plain text) gets the tokenizer's own end token, which is what
        generation stops at.
        """
        end, unsaid = 0, self._without_control(answer)
        for piece in pieces:
            place = unsaid.rfind(piece)
            if place < 0:
                raise RowError(
                    "", "drops-answer", f"the template does not write what the assistant says: {piece[:60]!r}"
                )
            end = max(end, place + len(piece))
            unsaid = unsaid[:place] + _BLANK * len(piece) + unsaid[place + len(piece) :]
        closed = self._closed(answer, end, calls=bool(message.tool_calls))
        if closed:
            return answer[:closed]
        if self.tokenizer.eos_token is None:
            raise TemplateError("the chat template closes no turn and the tokenizer has no end token")
        # White space at the end is the model's to say where the answer has it, not where the template adds it.
        body, content = answer.rstrip(), message.content
        white = "" if message.tool_calls else content[len(content.rstrip()) :]
        return body + (white if answer[len(body) :].startswith(white) else "") + str(self.tokenizer.eos_token)

    def _closed(self, answer: str, end: int, *, calls: bool) -> int:
        """Where the turn is closed: behind the first control token after everything that is said; 0: never.

        Several in a row close it together, up to the one that generation stops at. A call's arguments may stand
        between control tokens of their own (Mistral's `[ARGS]`), so there it is the stop token that counts.
        """
        marks = list(self._control.finditer(answer, end))
        if not marks:
            return 0
        stop = next((i for i, mark in enumerate(marks) if mark[0] in self._stops), None)
        if stop is None:
            return marks[-1 if calls else 0].end()
        in_a_row = all(one.end() == following.start() for one, following in pairwise(marks[: stop + 1]))
        return marks[stop if calls or in_a_row else 0].end()

    def _without_control(self, text: str) -> str:
        """The text with control tokens blanked, so that the answer `end` is not found in `<|im_end|>`."""
        return self._control.sub(lambda mark: _BLANK * len(mark[0]), text)

    def _said(self, message: Message) -> list[str]:
        """The pieces of text that must all stand in the rendered answer, each in a place of its own."""
        texts = [piece.strip() for piece in (*_THINKING_TAG.split(message.content), message.reasoning or "")]
        calls = [str(call["function"]["name"]) for call in message.tool_calls]
        pieces = [piece for piece in (*sorted(texts, key=len, reverse=True), *calls) if piece]
        if not pieces:
            raise RowError("", "empty-answer", "the assistant says nothing")
        return pieces

    # ---- what must hold ----------------------------------------------------------------------------------------

    def _require_no_control(self, message: Message) -> None:
        calls = json.dumps([dict(call) for call in message.tool_calls], ensure_ascii=False)
        for said in (message.content, message.reasoning or "", calls):
            found = self._control.search(said)
            if found:
                detail = f"the answer holds the text of the control token {found[0]}, which would end or break the turn"
                raise RowError("", "control-token", detail)

    def _require_tools_written(self, conversation: Conversation) -> None:
        """A template that ignores tools would train answers to calls that serving never explains."""
        if not conversation.tools:
            return
        # Under names that nothing else has: the calls hold the real ones too.
        names = {f"tool_{place}_of_the_list": tool["function"] for place, tool in enumerate(conversation.tools)}
        renamed = [{"type": "function", "function": {**function, "name": name}} for name, function in names.items()]
        text = self.template(conversation.messages, renamed, answer_next=False)
        missing = [function.get("name") for name, function in names.items() if name not in text]
        if missing:
            detail = f"the chat template does not write the tool {missing[0]!r}; use a template that knows tools"
            raise RowError("", "drops-tools", detail)

    def _require_agreement(self, conversation: Conversation, index: int, answer: str) -> None:
        """Where the template itself marks `{% generation %}`, both must name the same text, end token aside."""
        if not _GENERATION.search(self._source(conversation.tools)):
            return
        marked = self._marked(conversation.messages[: index + 1], conversation.tools)
        if self._control.sub("", marked).strip() != self._control.sub("", answer).strip():
            raise TemplateError(
                f"the chat template marks {marked[:200]!r} as generated, but after its generation prompt "
                f"the model must say {answer[:200]!r}; correct the template or set model.chat_template"
            )
        first = next(i for i, message in enumerate(conversation.messages) if message.role == "assistant")
        asked = self._marked(conversation.messages[:first], conversation.tools) if first else ""
        if asked.strip():
            raise TemplateError(
                f"the chat template marks {asked[:200]!r} as generated, which no assistant says; "
                "correct the template or set model.chat_template"
            )

    # ---- the template ------------------------------------------------------------------------------------------

    def _source(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """The template; a tokenizer may have another one for tools."""
        try:
            return str(self.tokenizer.get_chat_template(tools=list(tools) or None))
        except ValueError as error:
            raise TemplateError(f"no chat template: {error}; set model.chat_template to a .jinja file") from None

    def _marked(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        """The last stretch of text that the template marks as generated; text, since tokens cut characters."""
        from transformers.utils.chat_template_utils import render_jinja_template

        with _refusals():
            texts, spans = render_jinja_template(
                [[message.for_template() for message in messages]],
                tools=[dict(tool) for tool in tools] or None,
                chat_template=self._source(tools),
                return_assistant_tokens_mask=True,
                **{**self.tokenizer.special_tokens_map, **self.options},
            )
        text, stretches = str(texts[0]), list(spans[0])
        if not stretches:
            return ""
        start, last = stretches.pop()
        while stretches and not text[stretches[-1][1] : start].strip():
            start, _ = stretches.pop()
        return text[start:last]

    def template(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, answer_next: bool) -> str:
        """What the chat template makes of these messages; with `answer_next`, as serving feeds it. Raises RowError."""
        self._source(tools)  # no template at all is not this row's fault
        if not messages:
            raise RowError("", "template", "the first message is the assistant's, so serving feeds nothing before it")
        with _refusals():
            text = self.tokenizer.apply_chat_template(
                [message.for_template() for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=answer_next,
                tokenize=False,
                **self.options,
            )
        return str(text)


@contextmanager
def _refusals() -> Iterator[None]:
    """Whatever goes wrong within a template is a refusal of the row."""
    import jinja2

    try:
        yield
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise RowError("", "template", f"the chat template refuses these messages: {error}") from None

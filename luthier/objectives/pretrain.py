"""Continued pre-training: the negative log-likelihood of every token."""

from __future__ import annotations

from typing import ClassVar, Literal

from luthier.data.conversation import Content, Conversation, Text
from luthier.errors import RowError
from luthier.objectives.base import Renderer, Tokens, hint
from luthier.objectives.sft import Sft


class Pretrain(Sft):
    """Learn every token of a text, or of a conversation as the chat template writes it."""

    type: Literal["pretrain"] = "pretrain"

    learns_turns: ClassVar[bool] = False

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The whole text, every token supervised."""
        if not isinstance(content, Conversation | Text):
            raise RowError("", "wrong-content", f"pretrain learns texts and conversations; {hint(content)}")
        return [renderer.whole(content)]

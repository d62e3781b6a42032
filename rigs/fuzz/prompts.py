"""Texts of special tokens, whole and in parts, anywhere in a conversation: the prompt has no control token more."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edge_agent.core.protocol import ChatMessage, TaskPrefix
from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.chat import Chat
from rigs.fuzz.children import FAILED, Outcome

_ROLES: tuple[Literal["system", "user", "assistant"], ...] = ("system", "user", "assistant")
_FILLERS = ("", " ", "\n", "x", "7 mm/s", "é", "e\u0301", "\ufdd0", "\ufdd1", "\u200b", "<", "|", ">", "<|", "|>", "\0")


def outcomes(numbers: range, model: Path) -> Iterator[tuple[int, Outcome]]:
    llama = Llama(str(model), context_tokens=256, batch_tokens=64, sequences=1)
    chat, specials = Chat(llama), sorted(llama.special_texts())
    for number in numbers:
        yield number, _outcome(llama, chat, conversation(specials, number))


def conversation(specials: list[str], number: int) -> list[ChatMessage]:
    """The first ones have each special text alone, in each role."""
    if number < len(specials) * len(_ROLES):
        at, role = divmod(number, len(_ROLES))
        return [ChatMessage(role=_ROLES[role], content=specials[at])]
    dice = random.Random(number)
    return [
        ChatMessage(role=dice.choice(_ROLES), content="".join(_piece(specials, dice) for _ in range(dice.randrange(6))))
        for _ in range(dice.randrange(1, 5))
    ]


def _piece(specials: list[str], dice: random.Random) -> str:
    special = dice.choice(specials)
    at = dice.randrange(len(special) + 1)
    return dice.choice((special, special[:at], special[at:], special[:at] + special + special[at:], *_FILLERS))


def _outcome(llama: Llama, chat: Chat, messages: list[ChatMessage]) -> Outcome:
    plain = [ChatMessage(role=message.role, content="x") for message in messages]
    wanted, found = (chat.prompt(said, thinks=False)[0] for said in (plain, messages))
    controls = [[token for token in tokens if llama.is_control(token)] for tokens in (wanted, found)]
    if controls[0] != controls[1]:
        return FAILED, f"{len(controls[1])} control tokens, not {len(controls[0])}: {messages}"
    text = b"".join(map(llama.piece, found)).decode(errors="replace")
    for message in messages:
        content = unicodedata.normalize("NFC", message.content)
        content = content.replace("\ufdd0", "\ufffd").replace("\ufdd1", "\ufffd")
        if content not in text:
            return FAILED, f"{content!r} is not in {text!r}"
    # The head of a task's prompts is made by itself.
    head = chat.prefix(TaskPrefix(task="t", system=messages[0].content, user_head=messages[-1].content))
    bare = chat.prefix(TaskPrefix(task="t", system="x", user_head="x"))
    if sum(map(llama.is_control, head)) != sum(map(llama.is_control, bare)):
        return FAILED, f"a prefix has other control tokens: {messages}"
    return "text", ""

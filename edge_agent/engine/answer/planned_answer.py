"""An answer that is written by a plan: one step of the model for each decision, none for text that is forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jsonschema
import numpy as np
import numpy.typing as npt

from edge_agent.core.protocol import Finish
from edge_agent.engine.answer.answer_guess import AnswerGuess, Draft
from edge_agent.engine.answer.answers import check_output
from edge_agent.engine.answer.plan_steps import Choice, End, Free, Literal, Step, continuations
from edge_agent.engine.answer.sampling import TokenPicker
from edge_agent.engine.answer.slots import Slot
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.answer.text_tokens import TextTokens
from edge_agent.engine.llama import Llama

# A character of UTF-8 may be so many tokens, and cannot be left before the last.
_LONGEST_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class _Option:
    """A text that may come next, its tokens, and the step that follows."""

    text: str
    tokens: tuple[int, ...]
    then: Step


class _HeldToSlot:
    """The Constraint that a slot is: of a token that ends it, the part before its end must be content."""

    is_quick = False

    def __init__(self, llama: Llama, slot: Slot) -> None:
        self._llama = llama
        self._slot = slot

    def allows(self, token: int) -> bool:
        data = self._llama.piece(token)
        return bool(data) and self._slot.feed(data) is not None and not self._llama.is_control(token)

    def mask(self, candidates: npt.NDArray[np.void]) -> None:
        for at, token in enumerate(candidates["id"].tolist()):
            if not self.allows(token):
                candidates["logit"][at] = -np.inf


class PlannedAnswer:
    """Writes what a plan leaves open; forced text goes into the cache together with the tokens before it.

    tokens: all that are decided so far, to be decoded behind the prompt; at first those up to the first decision.
    decisions: the offsets of those after which something was decided; -1 = after the prompt.
    Forced tokens count as completion tokens and toward max_tokens like any other; where these run out, the answer is
    closed as soon as the schema lets it. guess: learns from the answer when it is complete.
    """

    reasoning = None

    def __init__(
        self,
        llama: Llama,
        picker: TokenPicker,
        text_tokens: TextTokens,
        first: Step,
        *,
        max_tokens: int,
        schema: jsonschema.Draft202012Validator,
        guess: AnswerGuess,
    ) -> None:
        self._llama = llama
        self._picker = picker
        self._text_tokens = text_tokens
        self._step = first
        self._max_tokens = max_tokens
        self._schema = schema
        self._text = TextStream()
        # Decided, but not yet cut into tokens: what follows may join it.
        self._pending = ""
        # Of the choice that is on its way: what is left, and how many tokens of it are written.
        self._options: list[_Option] | None = None
        self._chosen = 0
        self._slot: Slot | None = None
        self._costs: dict[Step, int] = {}
        self._guess = guess
        self.tokens: list[int] = []
        self.decisions: list[int] = []
        self._decoded = 0
        self.completion_tokens = 0
        self.finish: Finish | None = None
        self._advance(None)

    @property
    def text(self) -> str:
        return self._text.text

    def take_delta(self) -> str:
        return self._text.take_delta()

    def next_tokens(self, row: int) -> list[int]:
        """Decide after this row of the last batch; gives the tokens to decode next, none when the answer has ended.

        Raises NumericError.
        """
        self._decoded = len(self.tokens)
        self.decisions.append(self._decoded - 1)
        self._advance(row)
        if self.finish is None and self._left == 0:
            self.finish = Finish.LENGTH
        self.completion_tokens = len(self.tokens)
        if self.finish is None:
            return self.tokens[self._decoded :]
        self._text.end()
        if self.finish is Finish.SCHEMA:
            self._guess.learn(Draft(tuple(self.tokens), tuple(self.decisions)))
        return []

    def check(self) -> None:
        """Raises InvalidOutputError unless the finished text keeps to the schema."""
        check_output(self.text, self.finish, self._schema, self._max_tokens)

    def draft(self) -> Draft:
        """What is decided, and behind it what will probably be decided next."""
        return self._guess.behind(self.tokens, self._max_tokens)

    def close(self) -> None:
        self._picker.close()

    @property
    def _left(self) -> int:
        return self._max_tokens - len(self.tokens)

    @property
    def _is_ahead(self) -> bool:
        """Whether there are tokens after which no logits are known yet."""
        return len(self.tokens) > self._decoded

    def _advance(self, row: int | None) -> None:
        """Take the steps that need no logits but those of this row, None = of no row."""
        while self.finish is None:
            step = self._step
            if isinstance(step, Literal):
                self._pending += step.text
                self._step = step.then()
            elif isinstance(step, End):
                # Where all is forced there are no logits to wait for, yet an answer ends after some.
                if row is None:
                    return
                self._write_pending()
                self.finish = self.finish or Finish.SCHEMA
            elif not (self._choose(step, row) if isinstance(step, Choice) else self._fill(step, row)):
                return

    def _choose(self, step: Choice, row: int | None) -> bool:
        """Walk down the tree of the options' tokens; False = logits are needed that are not there yet."""
        if self._options is None:
            self._options, self._chosen = self._affordable(self._open(step)), 0
        while len(self._options) > 1:
            following = list(dict.fromkeys(option.tokens[self._chosen] for option in self._options))
            if len(following) > 1 and (row is None or self._is_ahead):
                return False
            token = following[0] if len(following) == 1 or row is None else self._picker.pick_among(row, following)
            self._options = [option for option in self._options if option.tokens[self._chosen] == token]
            self._chosen += 1
            self._write([token])
        option = self._options[0]
        settled, self._pending = self._text_tokens.settle(option.text, option.tokens, self._chosen)
        self._write(option.tokens[self._chosen : settled])
        self._step, self._options = option.then, None
        return True

    def _open(self, step: Choice) -> list[_Option]:
        """The texts behind what is pending."""
        texts = ((self._pending + text, then) for text, then in continuations(step))
        return [_Option(text, self._text_tokens.of(text), then) for text, then in texts]

    def _affordable(self, options: list[_Option]) -> list[_Option]:
        """Those after which the answer can be closed with the tokens that are left; all if there are none."""
        # What is free may begin with a sign or a part of a character and then takes more than its least.
        for spare in (_LONGEST_CHARACTER, 0):
            limit = self._left - spare
            if found := [option for option in options if len(option.tokens) + self._cost(option.then) <= limit]:
                return found
        return options

    def _fill(self, step: Free, row: int | None) -> bool:
        """Write a slot's next token, if it has one; False = logits are needed that are not there yet."""
        if self._slot is None:
            self._write_pending()
            self._slot = step.slot
        if not self._has_to_leave(self._slot, step):
            if row is None or self._is_ahead:
                return False
            token = self._picker.pick_allowed(row, _HeldToSlot(self._llama, self._slot))
            data, fed = self._llama.piece(token), self._slot.feed(self._llama.piece(token))
            assert fed is not None
            self._slot, kept = fed
            if kept == len(data):
                self._write([token])
                return True
            # The token ends the slot: what of it is content is cut anew together with what the plan has next.
            self._pending = data[:kept].decode()
        self._step, self._slot = step.then(), None
        return True

    def _has_to_leave(self, slot: Slot, step: Free) -> bool:
        spare = self._left - self._cost(step.then())
        return slot.must_end or (spare < _LONGEST_CHARACTER and slot.can_end)

    def _cost(self, step: Step) -> int:
        """Tokens that it takes about at least to close the answer from this step on."""
        path: list[tuple[Step, int]] = []
        while not isinstance(step, End) and step not in self._costs:
            if isinstance(step, Choice):
                text, later = step.options[0]
                path.append((step, len(self._text_tokens.of(text))))
            elif isinstance(step, Literal):
                later = step.then
                path.append((step, len(self._text_tokens.of(step.text))))
            else:
                later = step.then
                path.append((step, step.slot.least_characters))
            step = later()
        cost = self._costs.get(step, 0)
        for step, tokens in reversed(path):
            cost = self._costs[step] = cost + tokens
        return cost

    def _write_pending(self) -> None:
        self._write(self._text_tokens.of(self._pending))
        self._pending = ""

    def _write(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if self._left == 0:
                self.finish = Finish.LENGTH
                return
            self.tokens.append(token)
            self._text.write(self._llama.piece(token))

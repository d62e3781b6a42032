"""Feedback from the bus: what a caller says of an answer. It gets a result as a command does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pydantic import StrictBool, StrictInt, StrictStr, model_validator

from edge_agent.commands.fields import CommandFields, fields_of, parse_command, result_publication
from edge_agent.core.codes import CommandError
from edge_agent.core.config import Config
from edge_agent.core.messages import Message, Publication
from edge_agent.core.topics import reply_topic_fault
from edge_agent.core.wording import cut
from edge_agent.learning.feedback import Feedback, Mark

log = logging.getLogger(__name__)


class _Fields(CommandFields):
    id: StrictStr | StrictInt
    reply_to: StrictStr | None = None
    answer: StrictStr | None = None
    correct: StrictBool | None = None

    @model_validator(mode="after")
    def _check(self) -> _Fields:
        if (self.answer is None) == (self.correct is None):
            raise ValueError("should have either `answer` or `correct`")
        return self


class FeedbackTopic:
    """Messages on `infer/<task>/feedback`. publish: sends a result, also to a broker that is away now."""

    def __init__(self, config: Config, feedback: Feedback, publish: Callable[[Publication], object]) -> None:
        self.config = config
        self._feedback = feedback
        self._publish = publish

    def receive(self, task: str, message: Message, now: float) -> None:
        fields: dict[str, Any] = {}
        data: dict[str, Any] | None = None
        error: tuple[str, str] | None = None
        try:
            fields = parse_command(message.payload)
            wanted = fields_of(_Fields, fields)
            mark = Mark(id=wanted.id, reply_to=wanted.reply_to, answer=wanted.answer, is_correct=wanted.correct)
            data = self._feedback.mark(task, mark, now)
        except CommandError as refused:
            error = refused.code, refused.message
            log.info("feedback refused task=%r code=%s", cut(task), refused.code)
        topic = message.response_topic
        if topic is None or reply_topic_fault(topic, self.config.reply_topics):
            topic = self.config.topics.feedback_result(task)
        self._publish(result_publication(topic, message.correlation, fields.get("id"), data, error))

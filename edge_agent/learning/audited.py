"""Tasks whose answers are kept. What is known about them is restored at a start and assessed in the background."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from edge_agent.core.background import in_background
from edge_agent.core.clock import age_s, moment
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.pipe import Finished
from edge_agent.core.strict_json import encode, number_of
from edge_agent.learning.answers import AnswerTable, AuditCounts, KeptAnswer
from edge_agent.learning.maths.assessment import MIN_ANSWERED, Assessment
from edge_agent.requests.answerers import AnswererEvent
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task

log = logging.getLogger(__name__)

# Old answers are deleted after this many new ones.
FORGET_EVERY = 50
# Each task is assessed this often although nothing is new, because open audits grow old.
ASSESS_EVERY_S = 3600.0
DAY_S = 86_400.0
# Open audits are no reason of health before they are older than this, because nobody answers between two shifts.
_SHIFT_S = 8 * 3600.0


@dataclass(slots=True, eq=False)
class AuditedTask:
    """A task under one definition, one model and one judge."""

    task: Task
    config: ClassifyTask
    basis: str  # Identifies definition, model and judge in the store.
    store_name: str  # The name of its answers in the store.
    since: int = 0  # The number of the last answer before the audits that count.
    kept_count: int = 0
    due_at: float | None = 0.0  # When it is assessed next; None if nothing is new.
    again_at: float = math.inf  # When it is assessed again although nothing is new.
    is_judged: bool = False  # Whether it has been assessed since it has been tracked.
    open_since_s: float | None = None  # When the first audit after the newest answered one was asked.
    is_overdue: bool = False  # Whether nobody has answered for so long that the open audits count as not answered.
    audit_counts: AuditCounts | None = None  # None if they must be counted again.

    @property
    def next_at(self) -> float:
        return self.again_at if self.due_at is None else min(self.due_at, self.again_at)


_T = TypeVar("_T", bound=AuditedTask)


class AuditedTasks(Generic[_T]):
    """Belongs to the agent's thread. A subclass says what is assessed and what follows from it."""

    def __init__(self, config: FeedbackConfig, table: AnswerTable, *, min_kept_marked: int = 0) -> None:
        self._config = config
        self._table = table
        self._min_kept_marked = min_kept_marked
        self._tracked: dict[str, _T] = {}  # By the task's name.
        self._assessing: tuple[_T, list[KeptAnswer], Future[Assessment]] | None = None

    @property
    def is_judged(self) -> bool:
        """Whether all tasks have been assessed, so that it is known what may be promised of their answers."""
        return all(tracked.is_judged for tracked in self._tracked.values())

    def _assessment(self, tracked: _T) -> tuple[list[KeptAnswer], Callable[[], Assessment]]:
        """The kept answers, and how to assess them in another thread."""
        raise NotImplementedError

    def _apply(self, tracked: _T, kept: list[KeptAnswer], assessment: Assessment) -> list[AnswererEvent]:
        """Gives the events that follow from it."""
        raise NotImplementedError

    def _notice_overdue(self, tracked: _T, kept: Sequence[KeptAnswer]) -> None:
        """Sets since when the audits after the newest answered one are open, and whether that is too long."""
        audits = [answer for answer in kept if answer.is_audit and answer.number > tracked.since]
        newest = max((answer.number for answer in audits if answer.is_marked), default=0)
        now = time.monotonic()
        # Before its clock is set, a board may ask with a time of years ago.
        known_times = (
            answer.wall_s for answer in audits if answer.number > newest and age_s(answer.wall_s, now) is not None
        )
        open_since = next(known_times, None)
        # The first open ones may be deleted meanwhile, so their time is stored separately.
        known = self._table.load_state(key := f"{tracked.basis}/open")
        if isinstance(known, list) and known[:1] == [newest]:
            open_since = None if open_since is None else number_of(known[-1])
        elif open_since is not None:
            self._table.save_state(key, tracked.store_name, [newest, open_since])
        limit_s = self._config.unanswered_days * DAY_S
        open_s = None if open_since is None else age_s(open_since, now)
        tracked.open_since_s = open_since
        tracked.is_overdue = open_s is not None and open_s > limit_s
        tracked.audit_counts = None

    def audit_counts(self) -> dict[str, AuditCounts]:
        """The audits of each task; counted again only after a change."""
        counts = {}
        for name, tracked in self._tracked.items():
            if (known := tracked.audit_counts) is None:
                known = self._table.audit_counts(tracked.basis, after=tracked.since)
                known = tracked.audit_counts = replace(known, missed=known.open) if tracked.is_overdue else known
            counts[name] = known
        return counts

    def needs_answers(self, name: str) -> bool:
        """Whether a promise would end if it counted all open audits, and they are open for longer than a shift."""
        audits, since_s = self.audit_counts()[name], self._tracked[name].open_since_s
        open_s = None if since_s is None else age_s(since_s, time.monotonic())
        is_enough = audits.asked - audits.open >= MIN_ANSWERED * audits.asked
        return not is_enough and open_s is not None and open_s > _SHIFT_S

    def _find_tracked(self, task: Task | None) -> _T | None:
        """None if answers of the task are not kept, and for a request whose definition of the task is gone."""
        assert task is not None
        tracked = self._tracked.get(task.name)
        return tracked if tracked is not None and tracked.task.definition == task.definition else None

    def _keep(
        self, tracked: _T, request: Request, event: Finished, output: Any, wall_s: float, value: Any, **marks: Any
    ) -> None:
        """Keeps an answer. `event` has the model's own scores. `value` is the input, or None if inputs are not kept."""
        answer = {
            "id": json.dumps(request.id),
            "reply_topic": request.reply_topic,
            "wall_s": wall_s,
            "machine": request.known_machine,
            "scores": {label: round(score, 9) for label, score in (event.scores or {}).items()},
            "tokens": event.prompt_tokens,
            "rare_fields": event.rare_fields,
            "input": None if value is None else encode(value),
            "output": output,
            "is_refused": tracked.config.refuses(event),
        }
        self._table.keep(tracked.store_name, tracked.basis, KeptAnswer(**answer | marks))
        if marks.get("is_audit"):
            tracked.audit_counts = None
        tracked.kept_count += 1
        if tracked.kept_count % FORGET_EVERY == 0:
            self._forget_old(tracked)

    def _forget_old(self, tracked: _T, store_name: str | None = None) -> None:
        """Deletes old answers of the task: the ones under its own store name, unless `store_name` is another."""
        tracked.audit_counts = None
        keep, before = self._config.keep, moment(time.monotonic()).wall_s - self._config.days * DAY_S
        keep_marked = max(keep, self._min_kept_marked)
        self._table.forget(store_name or tracked.store_name, keep=keep, keep_marked=keep_marked, before_wall_s=before)

    def tick(self, now: float) -> list[AnswererEvent]:
        """Must be called several times a second. Gives the events since the last call."""
        events: list[AnswererEvent] = []
        if self._assessing is not None:
            tracked, kept, future = self._assessing
            if not future.done():
                return []
            self._assessing, tracked.is_judged = None, True
            if self._tracked.get(tracked.task.name) is tracked:
                if (error := future.exception()) is None:
                    events = self._apply(tracked, kept, future.result())
                else:
                    log.error("the kept answers of %s cannot be used: %s", tracked.store_name, error)
        # Requests or health wait for the ones that are not judged.
        first = min(self._tracked.values(), key=lambda tracked: (tracked.is_judged, tracked.next_at), default=None)
        if first is not None and now >= first.next_at:
            first.due_at, first.again_at = None, now + ASSESS_EVERY_S
            try:
                kept, work = self._assessment(first)
                self._assessing = first, kept, in_background("assessment", work)
            except Exception:
                first.is_judged = True  # A fault here must keep no request waiting.
                raise
        return events

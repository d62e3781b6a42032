"""The answers that ask for feedback, and what their tasks' promises still need.

A check is an audit or an unusual reading. An open audit is blind: nothing here reveals its output or scores.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from edge_agent.tools.watch.site import BoardLevel, Document, Row, number_at, object_at, text_at, time_at
from edge_agent.web.answer import Answer, Wanted, reading_of
from edge_agent.web.boards import escaped, tasks_of
from edge_agent.web.journal import Entry
from edge_agent.web.open_audits import OpenAudits
from edge_agent.web.promise import promises
from edge_agent.web.tasks import Tasks

# By default, a board keeps the newest 1,000 open audits of each task.
MAX_KEPT, MAX_KEPT_OF_BOARD = 20_000, 2_000
MAX_KEPT_BYTES = 16_000_000
# The most in one response.
MAX_CHECKS, MAX_NEEDS = 500, 200
# A task that sends bare outputs sends a check within this time of its output.
_SAME_TIME_S = 5.0

_Identity = tuple[str, str, str, str | None]


class Checks:
    def __init__(self, tasks: Tasks, rows: Mapping[str, Row]) -> None:
        self._tasks, self._rows = tasks, rows
        self._kept: dict[_Identity, Answer] = {}
        self._kept_of: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()
        self._bytes = 0
        self._without_input: set[tuple[str, str]] = set()
        self._open: Counter[tuple[str, str]] = Counter()
        self._open_audits = OpenAudits(tasks, rows)
        # Boards with restored checks that have not said yet, by their health, which of these count.
        self._unheard: set[str] = set()

    def update(self) -> None:
        """Takes what boards and their tasks say now."""
        self._without_input &= self._tasks.by_name.keys()
        self._open_audits.update(self._kept.values())
        self._unheard -= {device for device, row in self._rows.items() if row.health}
        self._open = Counter((answer.device or "", answer.task or "") for answer in self._offered())

    @property
    def kept(self) -> Iterable[Answer]:
        """The checks that a later process needs, including closed ones, because a board may send a check again."""
        return self._kept.values()

    def restore(self, answer: Answer) -> bool:
        """Keeps a check of an earlier process. Returns False if it is no check."""
        if answer.device:
            self._unheard.add(answer.device)
        return self.keep_unless_repeated(answer)

    def keep_unless_repeated(self, answer: Answer) -> bool:
        """Keeps an answer if it asks for feedback. Returns False for one that came before."""
        document = answer.document()
        if document.get("please_check") is not True or not answer.device or not answer.task:
            return True
        answer.is_check, answer.asked_at = True, time_at(document, "ts")
        answer.model = text_at(document, "model.sha256")
        identity = (answer.device, answer.task, json.dumps(document.get("id")), answer.reply_to(document))
        before = self._kept.get(identity)
        if before is not None and (document.get("repeat") is True or before.payload == answer.payload):
            return False
        if before is not None:
            self._drop(identity)
        if "input" not in document and not answer.is_retained:
            self._without_input.add((answer.device, answer.task))
        self._kept[identity] = answer
        self._kept_of[answer.device] += 1
        self._bytes_of[answer.device] += len(answer.payload)
        self._bytes += len(answer.payload)
        self._drop_surplus(answer.device)
        return True

    def _drop_surplus(self, device: str) -> None:
        """Drops what is too much. A board gets only a part of the room, so that it cannot push out others' checks."""
        while self._kept_of[device] > MAX_KEPT_OF_BOARD or self._bytes_of[device] > MAX_KEPT_BYTES // 4:
            self._drop_one(device)
        while len(self._kept) > MAX_KEPT:
            self._drop_one(self._kept_of.most_common(1)[0][0])
        while self._bytes > MAX_KEPT_BYTES:
            self._drop_one(self._bytes_of.most_common(1)[0][0])

    def _drop_one(self, device: str) -> None:
        """Drops the oldest closed check of a board, or if none is closed, the oldest of the task that has most."""
        own = [identity for identity in self._kept if identity[0] == device]
        closed = next((identity for identity in own if self._kept[identity].is_closed), None)
        if closed is not None:
            self._drop(closed)
        else:
            ((fullest, _),) = Counter(task for _, task, *_ in own).most_common(1)
            self._drop(next(identity for identity in own if identity[1] == fullest))

    def _drop(self, identity: _Identity) -> None:
        device, size = identity[0], len(self._kept.pop(identity).payload)
        self._kept_of[device] -= 1
        self._bytes_of[device] -= size
        self._bytes -= size
        if not self._kept_of[device]:
            # Replies on shared topics may name any number of boards.
            del self._kept_of[device], self._bytes_of[device]

    def is_blind(self, answer: Answer) -> bool:
        """Whether the output must stay hidden, because a person may still check it; also of unknown tasks."""
        is_open = answer.is_check and (answer.is_hidden or not answer.is_closed)
        return is_open and text_at(self._tasks.of(answer), "kind") != "unusual"

    def _offered(self) -> Iterator[Answer]:
        """The checks that a person can answer here, oldest first."""
        tasks = self._tasks.with_feedback
        for answer in self._kept.values():
            if answer.is_closed or answer.is_retained or answer.mark is not None or self._waits_for(answer.device):
                continue
            is_offered = (answer.device, answer.task) in tasks and b'"input"' in answer.payload
            if is_offered and self._open_audits.counts(answer):
                yield answer

    def _waits_for(self, device: str | None) -> bool:
        """Whether a board's checks wait, because it cannot say now which of them count, or keep what people answer."""
        row = self._rows.get(device or "")
        return device in self._unheard or (row is not None and row.level in (BoardLevel.STOPPED, BoardLevel.OFFLINE))

    def _is_over(self, answer: Answer) -> bool:
        return answer.is_closed or not self._open_audits.counts(answer)

    def count_open(self, device: str, task: str | None = None) -> int:
        """How many checks of a board, or of one of its tasks, people could answer at the last tick."""
        return sum(count for (each, name), count in self._open.items() if each == device and task in (None, name))

    def document(self, wanted: Wanted, limit: int, *, shown: str | None = None, otherwise: Document) -> Document:
        """What `GET /api/v1/checks` says about checks.

        Args:
            shown: The key of the check that the viewer has before them; `closed` names it once nobody can answer it.
            otherwise: Why there may be nothing to check, unless something here explains it.
        """
        waiting = list(self._offered())
        offered = [answer for answer in waiting if wanted.takes(answer)]
        checks = [self._described(answer) for answer in offered[: min(limit, MAX_CHECKS)]]
        return {
            "open": len(offered),
            "checks": checks,
            "closed": shown if any(each.key == shown and self._is_over(each) for each in self._kept.values()) else None,
            "needs": self._needs(wanted.device, wanted.task),
            "not_here": self._not_here(wanted.device, wanted.task),
            "has_uncounted": self._has_uncounted(wanted.device, wanted.task),
            "left_out": self._count_left_out(waiting, offered),
            **({"reason": None} if checks else self._reason(wanted) or otherwise),
        }

    def _has_uncounted(self, device: str | None, task: str | None) -> bool:
        """Whether one of these tasks has checks that boards do not count, that is, unusual readings."""
        return any(text_at(self._tasks.by_name[each], "kind") == "unusual" for each in self._tasks_of(device, task))

    def _tasks_of(self, device: str | None, task: str | None) -> Iterator[tuple[str, str]]:
        """The known tasks of a board, of a name, or both; None stands for all."""
        return (each for each in self._tasks.by_name if device in (None, each[0]) and task in (None, each[1]))

    def _count_left_out(self, waiting: Sequence[Answer], offered: Sequence[Answer]) -> int:
        """How many checks of the same promises the viewer has left out. To a board, these are not answered."""
        offered_of = Counter((answer.device, answer.task) for answer in offered)
        waiting_of = Counter((answer.device, answer.task) for answer in waiting)
        promised = {
            (answer.device, answer.task)
            for answer in offered
            if number_at(self._tasks.of(answer), "min_accuracy") is not None
        }
        return sum(waiting_of[each] - offered_of[each] for each in promised)

    def _not_here(self, device: str | None, task: str | None) -> list[Document]:
        """Tasks of which not all open checks are here that their boards wait for.

        Those that are not here count as not answered once a newer one is answered. If none ever came, perhaps the
        account may not read their `topic`.
        """
        came = {(answer.device, answer.task) for answer in self._kept.values()}
        found = (each for each in self._tasks_of(device, task) if self._open_audits.lacking(*each))
        return [
            {
                "device": device,
                "task": task,
                "n": self._open_audits.lacking(device, task),
                "is_promised": number_at(self._tasks.by_name[device, task], "min_accuracy") is not None,
                "topic": None if (device, task) in came else escaped(self._tasks.check_topic(device, task)),
            }
            for device, task in islice(found, MAX_NEEDS)
        ]

    def _described(self, answer: Answer) -> Document:
        document, task = answer.document(), self._tasks.of(answer)
        output = document.get("output")
        unusual = output if text_at(task, "kind") == "unusual" and isinstance(output, dict) else None
        return {
            **reading_of(answer, document, task),
            "at": answer.at,
            "id": escaped(document.get("id")),
            "unit": escaped(text_at(task, "unit")),
            "unusual": unusual and escaped({name: unusual.get(name) for name in ("rarity", "because")}),
        }

    def _needs(self, device: str | None, task: str | None) -> list[Document]:
        # Stops at what is shown, because each takes a while, and a site may have thousands of tasks.
        needs = (
            {"device": each_device, "task": each_task, "open": self._open[each_device, each_task], **promise}
            for each_device, each_task in self._tasks_of(device, task)
            for promise in self.promises(each_device, each_task)
            if promise["words_key"] != "not_asked" or promise["min_accuracy"] is not None
        )
        return list(islice(needs, MAX_NEEDS))

    def promises(self, device: str, task: str) -> list[Document]:
        """What each promise of a task still needs."""
        row = self._rows.get(device)
        known = self._tasks.by_name.get((device, task))
        if row is None or known is None:
            return []
        accuracy = object_at(object_at(row.health, "accuracy"), task)
        return promises(known, accuracy)

    def unproven(self, row: Row) -> list[Document]:
        """How far the unproven promises of a board are."""
        return [
            {
                "task": escaped(name),
                "answered": promise["answered"],
                "more": promise["more"],
                "lacking": self._open_audits.lacking(row.device, name),
            }
            for name, _ in tasks_of(row)
            for promise in self.promises(row.device, name)
            if promise["min_accuracy"] is not None and promise["more"] != 0
        ]

    def _count_unheard(self, wanted: Wanted) -> int:
        """How many kept checks wait for their boards."""
        unheard = {device for device, row in self._rows.items() if not row.info or self._waits_for(device)}
        return sum(
            answer.device in unheard and not self._is_over(answer) and not answer.is_retained and wanted.takes(answer)
            for answer in self._kept.values()
        )

    def _reason(self, wanted: Wanted) -> Document | None:
        """Why there is nothing to check, as the page's texts name it."""
        if unheard := self._count_unheard(wanted):
            return {"reason": "unheard", "unheard": unheard}
        if not self._tasks.by_name:
            return {"reason": "no_tasks"}
        if not any(
            number_at(task, "audit_rate") or text_at(task, "kind") == "unusual" for task in self._tasks.by_name.values()
        ):
            return {"reason": "no_audits"}
        if self._without_input:
            tasks = sorted({name for _, name in self._without_input})[:5]
            return {"reason": "without_input", "reason_tasks": ", ".join(tasks)}
        return None

    def may_be_revealed_by(self, bare: Answer) -> bool:
        """Whether a bare output may be the hidden one of an open audit."""
        for answer in reversed(self._kept.values()):
            # A retained output comes again with each connection.
            if answer.at < bare.at - _SAME_TIME_S and not bare.is_retained:
                return False
            is_same = bare.device in (None, answer.device) and bare.task in (None, answer.task)
            if is_same and answer.at <= bare.at + _SAME_TIME_S and self.is_blind(answer):
                return True
        return False

    def close(self, device: str, task: str, request_id: Any) -> None:
        """Somebody else has given feedback. If several checks have this id, it is unknown which is meant."""
        known = (device, task, json.dumps(request_id))
        meant = [answer for identity, answer in self._kept.items() if identity[:3] == known]
        if len(meant) == 1 and meant[0].mark is None:
            meant[0].is_closed = True

    def close_answered(self, entries: Sequence[Entry]) -> None:
        """Closes the checks whose ids these entries of feedback name."""
        answered = {(entry.device, entry.name, entry.id) for entry in entries}
        devices = {entry.device for entry in entries}
        for answer in self._kept.values():
            if answer.device in devices:
                answer.is_closed |= (answer.device, answer.task, str(answer.document().get("id"))) in answered

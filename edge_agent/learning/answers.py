"""The answers that are kept for feedback, and what is known about the accuracy of each task."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.learning.maths.assessment import NEWEST_ANSWERS, Answer
from edge_agent.store.store import Store

# Runs a query with these values and returns its rows. Raises STORE_ERRORS.
Select = Callable[..., list[Any]]

_NAMES = (
    *("number", "id", "reply_topic", "wall_s", "scores", "tokens"),
    *("is_audit", "input", "output", "is_marked", "label", "rare_fields", "machine", "marked_by", "is_refused"),
)
_COLUMNS = ", ".join(_NAMES)
# The value of `is_audit` in the row up to which open audits newer than any answered one were deleted.
_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer(Answer):
    """An answer as a row of the database."""

    number: int = 0  # Rises with time.
    id: str  # Of the request, as JSON.
    reply_topic: str
    wall_s: float
    input: bytes | None = None
    machine: str | None = None  # The machine of a reading, as far as its topic names one.
    marked_by: str | None = None  # Who gave the feedback, as far as it says so.


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCounts:
    """How many callers were asked to check an answer, and how many have not done so."""

    asked: int = 0
    missed: int = 0  # Unanswered ones that a promise counts: those before an answered one, or all if overdue.
    open: int = 0  # All unanswered ones.
    open_since: str | None = None  # When the oldest of these was asked.


def student_store_name(task: str, student: str) -> str:
    """The name under which a student's answers to a task are kept."""
    return f"{task}/{student}"


def in_force_key(task: str) -> str:
    """Where the store keeps the basis of a task's audits that count."""
    return f"{task}/in-force"


def again_store_name(task: str) -> str:
    """The name under which a model's answers to audits of an earlier one are kept. No student has such a name."""
    return f"{task}/(again)"


class AnswerTable:
    """In all methods `basis` identifies a task's definition, the model and the judge. `task` is a task's name, or what
    `student_store_name` returns.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def keep(self, task: str, basis: str, answer: KeptAnswer) -> None:
        values = {name: getattr(answer, name) for name in _NAMES[1:]}
        values |= {
            name: None if values[name] is None else json.dumps(values[name]) for name in ("scores", "rare_fields")
        }
        columns, places = ", ".join(values), ", ".join("?" * len(values))
        statement = f"INSERT INTO answers (task, basis, {columns}) VALUES (?, ?, {places})"  # noqa: S608
        self._store.write(statement, task, basis, *values.values())

    def find(self, task: str, request_id: str) -> list[tuple[str, KeptAnswer]]:
        """Basis and answer of each request with this id, the newest first."""
        rows = self._store.select(
            f"SELECT basis, {_COLUMNS} FROM answers WHERE task = ? AND id = ? ORDER BY number DESC",  # noqa: S608
            task, request_id,
        )  # fmt: skip
        return [(basis, answer) for basis, *columns in rows if (answer := _answer(columns)) is not None]

    def set_label(self, number: int, label: str | None, by: str | None) -> None:
        """Records feedback on an answer. `label` is the right one, or None if only the output is known to be wrong."""
        statement = "UPDATE answers SET is_marked = 1, label = ?, marked_by = ? WHERE number = ?"
        self._store.write(statement, label, by, number)
        gaps = self._store.select(
            "SELECT gap.task, max(gap.number) FROM answers gap JOIN answers marked ON gap.task = marked.task"
            " WHERE marked.number = ? AND marked.is_audit = 1 AND gap.is_audit = ? AND gap.number < marked.number"
            " GROUP BY gap.task",
            number, _GAP,
        )  # fmt: skip
        for task, last in gaps:
            self._end_audits(task, last)

    def all_for(self, basis: str, *, after: int = 0, limit: int = -1) -> list[KeptAnswer]:
        """The answers in the order of time; all of them if `limit` is negative."""
        rows = self._store.select(
            f"SELECT {_COLUMNS} FROM answers WHERE basis = ? AND number > ? ORDER BY number LIMIT ?",  # noqa: S608
            basis, after, limit,
        )  # fmt: skip
        return [answer for columns in rows if (answer := _answer(columns)) is not None]

    def answers_for(self, basis: str, labels: Iterable[str], *, after: int = 0, limit: int = -1) -> list[KeptAnswer]:
        """As `all_for`, except rows that damage has given other labels."""
        known = set(labels)
        return [
            answer
            for answer in self.all_for(basis, after=after, limit=limit)
            if answer.scores.keys() == known and (answer.label is None or answer.label in known)
        ]

    def asked_or_marked(self, basis: str) -> list[KeptAnswer]:
        """The answers that are audits or have feedback, in the order of time."""
        rows = self._store.select(
            f"SELECT {_COLUMNS} FROM answers WHERE basis = ? AND (is_audit = 1 OR is_marked = 1) ORDER BY number",  # noqa: S608
            basis,
        )
        return [answer for columns in rows if (answer := _answer(columns)) is not None]

    def audit_counts(self, basis: str, *, after: int = 0) -> AuditCounts:
        """Counts the audits after the answer with the number `after`."""
        rows = self._store.select(
            "SELECT is_marked, wall_s FROM answers WHERE basis = ? AND is_audit = 1 AND number > ? ORDER BY number",
            basis, after,
        )  # fmt: skip
        open_at = [wall_s for is_marked, wall_s in rows if not is_marked]
        # How many are newer than the last one that was answered.
        newer = next((count for count, (is_marked, _) in enumerate(reversed(rows)) if is_marked), len(rows))
        since = timestamp(open_at[0]) if open_at else None
        return AuditCounts(asked=len(rows), missed=len(open_at) - newer, open=len(open_at), open_since=since)

    def share_given(self, basis: str) -> float | None:
        """The share of the newest answers that have an output; None without any."""
        newest = "SELECT output FROM answers WHERE basis = ? ORDER BY number DESC LIMIT ?"
        kept, given = self._store.select(f"SELECT count(*), count(output) FROM ({newest})", basis, NEWEST_ANSWERS)[0]  # noqa: S608
        return given / kept if kept else None

    def gap(self, task: str) -> int | None:
        """The number up to which open audits were deleted that are newer than any answered one."""
        number: int | None = self._store.select(
            "SELECT max(number) FROM answers WHERE task = ? AND is_audit = ?", task, _GAP
        )[0][0]
        return number

    def newest_wall_s(self, basis: str) -> float:
        """0 without an answer."""
        statement = "SELECT coalesce(max(wall_s), 0.0) FROM answers WHERE basis = ?"
        newest: float = self._store.select(statement, basis)[0][0]
        return newest

    def count_again(self, basis: str, task: str, *, after: int) -> int:
        """How many audits with feedback an earlier model was asked first."""
        answered = "task = ? AND is_audit = 1 AND is_marked = 1 AND number > ?"
        statement = f"SELECT count(*) FROM answers WHERE basis = ? AND {answered}"  # noqa: S608
        count: int = self._store.select(statement, basis, again_store_name(task), after)[0][0]
        return count

    def forget(self, task: str, *, keep: int, keep_marked: int, before_wall_s: float) -> None:
        """Deletes the answers of all tasks from before, and of this task all but the newest.

        `keep_marked` of those with feedback stay, and `keep` of those without. Apart from these, `keep` open audits
        since the last answered one stay, and as many before it.
        """
        self._store.write("DELETE FROM answers WHERE wall_s < ?", before_wall_s)
        newest = self._store.select(
            "SELECT coalesce(max(number), 0) FROM answers WHERE task = ? AND is_audit = 1 AND is_marked = 1", task
        )[0][0]
        if last := self._last_beyond(keep, "task = ? AND is_marked = 0 AND is_audit = 0", task):
            unasked = "task = ? AND is_marked = 0 AND is_audit = 0 AND number <= ?"
            self._store.write(f"DELETE FROM answers WHERE {unasked}", task, last)  # noqa: S608
        if last := self._last_beyond(keep_marked, "task = ? AND is_marked = 1", task):
            self._end_audits(task, last)
            self._store.write("DELETE FROM answers WHERE task = ? AND is_marked = 1 AND number <= ?", task, last)
        if last := self._last_beyond(keep, "task = ? AND is_marked = 0 AND is_audit = 1 AND number < ?", task, newest):
            self._end_audits(task, last)
        if last := self._last_beyond(keep, "task = ? AND is_marked = 0 AND is_audit = 1 AND number > ?", task, newest):
            # The answered ones before are still a fair sample, unless somebody answers one after the gap.
            old = "task = ? AND is_marked = 0 AND number > ? AND number < ? AND is_audit IN (1, ?)"
            self._store.write(f"DELETE FROM answers WHERE {old}", task, newest, last, _GAP)  # noqa: S608
            self._store.write("UPDATE answers SET is_audit = ? WHERE number = ?", _GAP, last)

    def _last_beyond(self, most: int, which: str, *values: object) -> int:
        """The number of the newest of these answers that is not among the newest `most`; 0 if there is none."""
        statement = f"SELECT number FROM answers WHERE {which} ORDER BY number DESC LIMIT 1 OFFSET ?"  # noqa: S608
        rows = self._store.select(statement, *values, most)
        return rows[0][0] if rows else 0

    def _end_audits(self, task: str, last: int) -> None:
        """Ends the audits up to this number, because without those that are deleted, the others are no fair sample.

        Those with feedback become feedback like any other.
        """
        old = "task = ? AND number <= ? AND is_audit IN (1, ?)"
        self._store.write(f"DELETE FROM answers WHERE {old} AND is_marked = 0", task, last, _GAP)  # noqa: S608
        self._store.write(f"UPDATE answers SET is_audit = 0 WHERE {old}", task, last, _GAP)  # noqa: S608

    def forget_all(self) -> None:
        """Called when feedback is switched off. Audits of students by the large model are not feedback, and stay."""
        self._store.write("DELETE FROM answers WHERE id <> ''")
        self._store.write("DELETE FROM accuracy WHERE task NOT LIKE '%/%'")

    def load_state(self, basis: str) -> Any:
        """What `save_state` wrote; None if there is nothing, or nothing readable."""
        document = self._store.load_task_state(basis)
        try:
            return None if document is None else json.loads(document)
        except ValueError:
            return None

    def save_state(self, basis: str, task: str, document: Any) -> None:
        self._store.save_task_state(basis, task, json.dumps(document))

    def save_in_force(self, task: str, basis: str) -> None:
        """Tells `read_open_audits` under which basis audits count now."""
        if self.load_state(in_force_key(task)) != basis:
            self.save_state(in_force_key(task), task, basis)


def read_answers(select: Select, task: str) -> list[KeptAnswer]:
    """A task's answers under all its definitions, models and students, in the order of time. Raises STORE_ERRORS."""
    # A student's answer without an input is an audit, and the large model's own answer to the request is kept, too.
    statement = (
        f"SELECT {_COLUMNS} FROM answers WHERE task = ? OR (task GLOB ? AND task <> ? AND input IS NOT NULL)"  # noqa: S608
        " ORDER BY number"
    )
    rows = select(statement, task, student_store_name(task, "*"), again_store_name(task))
    return [answer for columns in rows if (answer := _answer(columns)) is not None]


def read_open_audits(select: Select, task: str, answers: Iterable[KeptAnswer]) -> tuple[list[KeptAnswer], int]:
    """The open audits of a task in the order of time, and how many others no longer count: those of an earlier model or
    definition, and from before the accuracy fell. Raises STORE_ERRORS.

    `answers` is what `read_answers` returns.
    """
    audits = [answer for answer in answers if answer.is_audit and not answer.is_marked]
    basis = _read_state(select, in_force_key(task))
    if basis is None:  # An earlier version kept the answers.
        return audits, 0
    known = _read_state(select, basis)
    since = known.get("since", 0) if isinstance(known, dict) else 0
    # Also those that this model was asked again, instead of which `audits` has those of the earlier one.
    rows = select(
        f"SELECT {_COLUMNS} FROM answers WHERE basis = ? AND is_audit = 1 AND is_marked = 0 AND number > ?",  # noqa: S608
        basis, since,
    )  # fmt: skip
    counted = [answer for columns in rows if (answer := _answer(columns)) is not None]
    of_large = {number for (number,) in select("SELECT number FROM answers WHERE task = ?", task)}
    found = counted + [answer for answer in audits if answer.number not in of_large]
    ids = {answer.id for answer in found}
    return sorted(found, key=lambda answer: answer.number), sum(answer.id not in ids for answer in audits)


def _read_state(select: Select, basis: str) -> Any:
    rows = select("SELECT document FROM accuracy WHERE basis = ?", basis)
    try:
        return json.loads(rows[0][0]) if rows else None
    except ValueError:
        return None


def _answer(columns: Sequence[Any]) -> KeptAnswer | None:
    """None for a row that damage has changed."""
    known = dict(zip(_NAMES, columns, strict=True))
    try:
        known["scores"] = {str(name): float(score) for name, score in json.loads(known["scores"]).items()}
        if known["rare_fields"] is not None:
            rare = json.loads(known["rare_fields"]).items()
            known["rare_fields"] = {str(name): str(state) for name, state in rare}
    except (ValueError, TypeError, AttributeError):
        return None
    return KeptAnswer(**known | {name: known[name] == 1 for name in ("is_audit", "is_marked", "is_refused")})

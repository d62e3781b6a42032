"""What people called unusual readings, because only the same words again become a label one day."""

import re

from edge_agent.web.journal import Entry

MAX_NAMES = 5
# Of each task, the readings that were named last.
_MAX_READINGS = 2000
# What an entry of feedback says after the answer itself.
_DETAILS = re.compile("; (?:machine|id): ")
_NO_NAMES = re.compile("usual|right: .*|wrong: .*", re.DOTALL)


class Names:
    """The name of each reading as its board has last kept it, by task."""

    def __init__(self) -> None:
        self._named: dict[str, dict[tuple[str | None, str | None], str]] = {}

    def note(self, entry: Entry) -> None:
        """Takes what the journal says about feedback. A later entry about the same reading corrects the first one."""
        named = self._named.setdefault(entry.name or "", {})
        named.pop((entry.device, entry.id), None)
        name = _DETAILS.split(entry.text or "", maxsplit=1)[0]
        if is_name(name):
            named[entry.device, entry.id] = name
        if len(named) > _MAX_READINGS:
            del named[next(iter(named))]

    def of(self, task: str, pending: list[str]) -> list[str]:
        """The names last given, newest first.

        Args:
            pending: Names that boards have not kept yet, newest first.
        """
        kept = reversed(self._named.get(task, {}).values())
        return list(dict.fromkeys([*pending, *kept]))[:MAX_NAMES]


def is_name(said: object) -> bool:
    """Whether an answer names what an unusual reading was."""
    return isinstance(said, str) and said != "" and not _NO_NAMES.fullmatch(said)

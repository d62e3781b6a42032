"""What systemd, its journal and the kernel say about the service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.tools.diag.part import Part
from edge_agent.tools.diag.redaction import log_text, scrubbed
from edge_agent.tools.programs import UNIT, ProgramError, run

# Not Environment= nor SetCredential=: there may be secrets in them.
_PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "FragmentPath", "DropInPaths"),
    *("MainPID", "NRestarts", "ExecMainStatus", "ExecMainCode", "ExecMainStartTimestamp", "ExecMainExitTimestamp"),
    *("ActiveEnterTimestamp", "InactiveEnterTimestamp", "StatusText", "StatusErrno", "NeedDaemonReload"),
    *("MemoryCurrent", "MemoryPeak", "MemoryMax", "MemorySwapMax", "CPUUsageNSec", "TasksCurrent", "TasksMax"),
    *("WatchdogUSec", "TimeoutStopUSec", "OOMPolicy", "User", "Group", "SupplementaryGroups", "LimitNOFILE"),
)
LINES = 1000
_KERNEL_LINES = "5000"
_KERNEL = re.compile(
    r"out of memory|oom|killed process|throttl|voltage|thermal|temperature|i/o error|ext4-fs|mmc\d.*(error|timeout)|"
    r"segfault|hung task|watchdog|cpufreq|read-only",
    re.IGNORECASE,
)


def unit(part: Part) -> None:
    part.add_text("unit.txt", run(("systemctl", "show", UNIT, "--property", ",".join(_PROPERTIES)), 5.0))


def log(part: Part) -> None:
    """The last lines of the service, without callers' words: see redaction.log_text."""
    command = ("journalctl", "--unit", UNIT, "--lines", str(LINES), "--output", "json", "--no-pager", "--quiet")
    lines: list[str] = []
    dropped = 0
    for entry in _entries(run(command, 10.0)):
        text = _kept_message(entry)
        dropped += text is None
        if text is not None:
            lines.append(f"{_time(entry)} {entry.get('SYSLOG_IDENTIFIER', '')}[{entry.get('_PID', '')}]: {text}")
    part.add_text("log.txt", "".join(f"{line}\n" for line in lines))
    if not lines and not dropped:
        part.add_missing(f"journald has no line of {UNIT} for this account; root or the group adm may read it")
    part.left_out.append(f"ids, texts of refusals, and {dropped} lines that may hold a caller's words")


def _kept_message(entry: dict[str, Any]) -> str | None:
    """systemd's own messages are about the service; those of the service are filtered."""
    message = entry.get("MESSAGE")
    if not isinstance(message, str):  # bytes that are not UTF-8
        return None
    return scrubbed(message) if entry.get("_PID") == "1" else log_text(message)


def kernel(part: Part) -> None:
    """The kernel's messages about memory, heat, voltage and disks since boot."""
    try:
        text = run(("dmesg",), 5.0)
    except ProgramError as error:
        command = (
            "journalctl",
            "--dmesg",
            "--lines",
            _KERNEL_LINES,
            "--output",
            "json",
            "--no-pager",
            "--quiet",
        )
        entries = [entry for entry in _entries(run(command, 8.0)) if isinstance(entry.get("MESSAGE"), str)]
        text = "".join(f"{_time(entry)} {entry['MESSAGE']}\n" for entry in entries)
        if not text:
            raise ProgramError(f"{error}; journald shows this account no kernel messages either") from error
    part.add_text("kernel.txt", "".join(f"{line}\n" for line in text.splitlines() if _KERNEL.search(line)))


def _entries(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _time(entry: dict[str, Any]) -> str:
    stamp = str(entry.get("__REALTIME_TIMESTAMP", ""))
    return (timestamp(int(stamp) / 1e6) if stamp.isdecimal() else None) or "-"

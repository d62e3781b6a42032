"""What each check of `doctor` returns."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    verdict: Verdict
    found: str
    advice: str | None = None  # What to do, if there is anything to do.


def good(name: str, found: str) -> Check:
    return Check(name, Verdict.GOOD, found)


def skipped(name: str, found: str) -> Check:
    return Check(name, Verdict.SKIPPED, found)


def warning(name: str, found: str, advice: str) -> Check:
    return Check(name, Verdict.WARNING, found, advice)


def failed(name: str, found: str, advice: str) -> Check:
    return Check(name, Verdict.FAILED, found, advice)

"""From which scores on an input is taken for unlike training: few rows that are held out have more."""

from collections.abc import Sequence
from dataclasses import replace

from .quality import Answered

# Of the rows that are held out, which are ordinary.
SHARE = 0.02
# most_log_odds, most_strangeness of a task, see TaskFields.
Limits = tuple[float | None, float | None]


def limits_of(answers: Sequence[Answered]) -> Limits:
    """Of one task, from a model without limits. Where an input has both scores, each takes half of the share."""
    log_odds = [one.unlike for one in answers if one.unlike is not None]
    strangeness = [one.strangeness for one in answers if one.strangeness is not None]
    share = SHARE / (bool(log_odds) + bool(strangeness) or 1)
    return _limit(log_odds, share), _limit(strangeness, share)


def with_limits(answers: Sequence[Answered], limits: Limits) -> list[Answered]:
    """What a board answers with these limits."""
    return [replace(one, output=None, is_unlike=True) if _exceeds(one, limits) else one for one in answers]


def _limit(scores: Sequence[float], share: float) -> float | None:
    """The lowest score that at most this share of them exceeds."""
    return sorted(scores, reverse=True)[int(share * len(scores))] if scores else None


def _exceeds(one: Answered, limits: Limits) -> bool:
    pairs = zip((one.unlike, one.strangeness), limits, strict=True)
    return any(score is not None and limit is not None and score > limit for score, limit in pairs)

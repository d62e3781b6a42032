"""About how many more right audits a task needs for a promise, because the board tests answers by their scores, too."""

from functools import lru_cache

from edge_agent.learning.maths.assessment import answers_needed
from edge_agent.learning.maths.shares import CONFIDENCE, missing_audits, upper_bound
from edge_agent.tools.watch.site import Document, number_at

# For tasks without `min_accuracy`.
TARGETS = (0.9, 0.95)
# No board keeps nearly as many, and testing more would take long.
_MAX_AUDITS = 100_000

_missing_audits = lru_cache(maxsize=1024)(missing_audits)


def promises(task: Document, accuracy: Document) -> list[Document]:
    """What the promise of `min_accuracy` still needs, or those of TARGETS. Empty if the task can make no promise.

    Args:
        task: What `info` says about it.
        accuracy: What `health.accuracy` says about it.
    """
    asked, answered = _count(accuracy, "asked"), _count(accuracy, "audits")
    if asked is None or answered is None or answered > asked or "labels" not in task:
        return []
    share = _share(accuracy, "accuracy")
    known = {
        "asked": asked,
        "answered": answered,
        "right": 0 if not answered else None if share is None else round(share * answered),
        "given": _share(accuracy, "given"),
        "min_accuracy": _share(task, "min_accuracy"),
    }
    targets = TARGETS if known["min_accuracy"] is None else (known["min_accuracy"],)
    return [_promise(known, target, task, accuracy) for target in targets]


def _promise(known: Document, target: float, task: Document, accuracy: Document) -> Document:
    answered, right, more = known["answered"], known["right"], None
    is_enough = is_refuted = False
    # Those that were asked after the last answered one do not count yet. Older boards do not tell them apart.
    missed = _count(accuracy, "missed")
    missed = known["asked"] - answered if missed is None else missed
    newer = max(0, known["asked"] - answered - missed)
    wrong = None if right is None else answered - right
    by_share = answers_needed(answered, answered + missed)
    if (_share(accuracy, "promised") or 0) >= target:
        more = 0
    elif right is not None:
        # Rows held out from training count like audits. Older boards do not say how many were right; at best, all were.
        held_out = _count(accuracy, "held_out") or 0
        held_out_right = _count(accuracy, "held_out_right")
        right_rows = held_out if held_out_right is None else min(held_out_right, held_out)
        confidence = _share(task, "confidence") or CONFIDENCE
        by_bound = _missing_audits(right + right_rows, answered + held_out, target, confidence)
        more = max(by_bound, by_share)
        is_refuted = upper_bound(right, answered, confidence) < target
        # A promise that the board does not make yet needs at least one.
        is_enough = more == 0 and known["min_accuracy"] is not None
        more += is_enough
    if more == 0:
        words_key = "proven"
    elif not number_at(task, "audit_rate"):
        words_key = "not_asked"
    elif is_enough:
        words_key = "enough"
    elif is_refuted:
        # A number of right answers would be in the hundreds, and nobody would begin.
        words_key, more = "refuted", None
    else:
        words_key = "too_few_answered" if by_share > 0 else "audits"
    return {**known, "wrong": wrong, "newer": newer, "target": target, "more": more, "words_key": words_key}


def _count(document: Document, name: str) -> int | None:
    number = number_at(document, name)
    return int(number) if number is not None and 0 <= number <= _MAX_AUDITS else None


def _share(document: Document, name: str) -> float | None:
    number = number_at(document, name)
    return number if number is not None and 0 <= number <= 1 else None

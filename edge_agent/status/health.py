"""The health document, with what each part reports of itself, and what that means for the whole.

A field is named in its part (`as_health`), in tools/schema/health.json and in docs/mqtt-api.md; a section that only
some boards have, in ABSENT_SECTIONS, too. A reason is named in its part (`reasons`), in REASONS, in docs/monitoring.md,
docs/troubleshooting.md, the sample of docs/mqtt-api.md and examples/monitoring. alarms.py says how to add an alarm.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from edge_agent.status.alarms import ALARMS, Finding, Severity

# What `overall` is while a reason holds, by reason. Alarms are reasons, too.
REASONS = {
    "data-connection-lost": Severity.CRITICAL,
    "model-not-loaded": Severity.CRITICAL,
    "model-fallback": Severity.WARNING,
    "task-without-model": Severity.WARNING,
    "connection-unstable": Severity.WARNING,
    "publishing-refused": Severity.WARNING,
    "subscription-refused": Severity.WARNING,
    "requests-in-memory-only": Severity.WARNING,
    "requests-lost": Severity.WARNING,
    "draining": Severity.WARNING,
    "queue-full": Severity.WARNING,
    "limited": Severity.WARNING,
    "sensor-errors": Severity.WARNING,
    "promise-unproven": Severity.WARNING,
    "audits-open": Severity.WARNING,
    "signals-stale": Severity.WARNING,
}
# What the sections of optional parts hold on a board without these parts.
ABSENT_SECTIONS: Mapping[str, Any] = {"pool": None, "accuracy": {}, "students": {}, "signals": {}}
OVERALL = {Severity.NONE: "ok", Severity.WARNING: "degraded", Severity.CRITICAL: "critical"}


class Part(Protocol):
    """An optional part, such as a pool. It is called on the agent's thread, each second and for health."""

    def as_health(self, now: float) -> dict[str, Any]:
        """Its sections of the health document, by name."""

    def reasons(self) -> Mapping[str, bool]:
        """Whether each of its reasons of health holds now."""

    def findings(self, now: float) -> Mapping[str, Finding | None]:
        """The causes of its alarms by name; UNKNOWN where the board cannot tell, None where all is well."""


def health_document(
    parts: list[dict[str, Any]],
    *,
    reasons: Mapping[str, bool],
    alarms: Mapping[str, str],
    unmeasured: set[str],
    is_loading: bool = False,
) -> dict[str, Any]:
    """Parts that report fields of the same section share it.

    Args:
        parts: Sections by name; what is unknown on this board is null.
        reasons: Whether each reason of REASONS holds; those of a part that the board does not have are missing.
        alarms: The severity of each alarm that is raised, by name.
        unmeasured: The alarms whose cause this board cannot find.
        is_loading: Whether a start or a switch loads a model, so it is no fault that none answers.
    """
    severities = {**REASONS, "model-not-loaded": Severity.WARNING} if is_loading else REASONS
    known = {
        **{name: severity if reasons.get(name) else Severity.NONE for name, severity in severities.items()},
        **{rule.name: Severity.NONE for rule in ALARMS if rule.name not in unmeasured},
        **{name: Severity[word.upper()] for name, word in alarms.items()},
    }
    # What is critical comes first.
    held = sorted((name for name in known if known[name]), key=lambda name: -known[name])
    document: dict[str, Any] = {
        "overall": OVERALL[max(known.values())],
        "reasons": held,
        # Also reasons that do not hold now, as most programs for metrics read only numbers, and expect the same ones.
        "severity": {**{name: severity.value for name, severity in known.items()}, **dict.fromkeys(sorted(unmeasured))},
    }
    for part in parts:
        for name, section in part.items():
            document[name] = {**document[name], **section} if name in document else section
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _rounded(value: Any) -> Any:
    """A copy whose numbers have three decimals at most."""
    if isinstance(value, Mapping):
        return {name: _rounded(field) for name, field in value.items()}
    return round(value, 3) if isinstance(value, float) else value

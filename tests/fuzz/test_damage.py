"""A few of what `make fuzz` does by the thousand, always the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.fuzz import configurations, manifests, prompts, safetensors, schemas
from tests.fuzz.children import BAD, ENDED, FAILED, RAISED, STILL, Outcome, tried


def counted(outcomes: Iterable[tuple[int, Outcome]]) -> Counter[str]:
    found = list(outcomes)
    assert [one for one in found if one[1][0] in BAD] == []
    return Counter(outcome for _, (outcome, _) in found)


def test_damaged_checkpoints_are_refused_or_converted() -> None:
    counts = counted(safetensors.outcomes(12))
    assert min(counts["refused"], counts["converted"]) > 0, counts


def test_damaged_bundles_are_refused_or_answer() -> None:
    counts = counted(manifests.outcomes(6))
    assert min(counts["refused"], counts["answered"]) > 0, counts


def test_damaged_configurations_are_refused_or_good() -> None:
    counts = counted(configurations.outcomes(10, first=30))
    assert min(counts["refused"], counts["good"]) > 0, counts


def test_damaged_schemas_are_refused_or_kept_to(demo_bundle: Path) -> None:
    counts = counted(schemas.outcomes(demo_bundle / "model.gguf", 12))
    assert min(counts["refused"], counts["answered"]) > 0, counts


def test_special_tokens_in_a_conversation_are_text(demo_bundle: Path) -> None:
    assert counted(prompts.outcomes(demo_bundle / "model.gguf", 150)) == {"text": 150}


def die() -> Outcome:
    import ctypes  # noqa: PLC0415 - to die of

    ctypes.string_at(0)
    return "unharmed", ""


def loop() -> Outcome:
    while True:
        pass


def grow() -> Outcome:
    return "unharmed", str(len(bytearray(1 << 33)))


@pytest.mark.parametrize(("work", "outcome"), [(die, ENDED), (loop, STILL), (grow, RAISED)])
def test_what_may_not_be_is_told(work: object, outcome: str) -> None:
    found, why = tried(work, cpu_s=1, memory_bytes=1 << 28)  # type: ignore[arg-type]
    assert (found, bool(why)) == (outcome, True)


def test_what_is_found_is_told() -> None:
    assert tried(lambda: (FAILED, "why"), cpu_s=1, memory_bytes=1 << 28) == (FAILED, "why")

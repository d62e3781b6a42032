"""docs/monitoring.md shows what `edge-agent watch` prints."""

from __future__ import annotations

from tests.docs.pages import samples
from tests.tools.watch.scenes import mixed_site, plain


def test_the_sample_of_watch_is_its_output() -> None:
    (sample,) = samples("monitoring", "text")
    assert sample.splitlines() == plain(mixed_site())

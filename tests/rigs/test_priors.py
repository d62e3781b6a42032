"""The rig of priors counts right answers."""

from collections.abc import Mapping

import pytest

from edge_agent.core.score_map import ScoreMap
from rigs.priors import percents

UNSURE, SURE, SPAM = ({"ham": ham, "spam": 1 - ham} for ham in (0.6, 0.95, 0.1))
COLLAPSED = [(UNSURE, "spam"), (UNSURE, "spam"), (SURE, "ham"), (SPAM, "ham")]
NOT_COLLAPSED = [(UNSURE, "spam"), (SPAM, "spam"), (SPAM, "spam"), (SURE, "ham")]


@pytest.mark.parametrize(("answers", "right"), [(COLLAPSED, (25, 75, 75)), (NOT_COLLAPSED, (75, 100, 75))])
def test_the_default_is_corrected_only_where_answers_collapse(
    answers: list[tuple[Mapping[str, float], str]], right: tuple[int, int, int]
) -> None:
    assert percents(answers, ScoreMap.dividing_by({"ham": 0.8, "spam": 0.2})) == right

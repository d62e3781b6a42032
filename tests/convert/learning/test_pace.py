"""With `edge-convert train --minutes`, trainings use the time that they have, whatever the machine does meanwhile."""

import math

from convert.learning.pace import Pace, TimeLimit
from convert.learning.recipe import MIN_STEPS


def trained(pace: Pace, *, began: float, slow_until: float) -> tuple[int, float]:
    """The steps and the end of a training whose step takes 1 s while the machine is busy, and 0.1 s afterwards."""
    done, now = 0, began
    while done < pace.target_steps(done, now):
        now += 1.0 if now < slow_until else 0.1
        done += 1
    return done, now


def test_without_a_limit_a_training_has_all_steps() -> None:
    assert trained(Pace(1600, math.inf, 0.0), began=0.0, slow_until=1e6)[0] == 1600


def test_a_busy_moment_at_the_start_does_not_decide_the_steps() -> None:
    steps, ended = trained(Pace(1600, 100.0, 0.0), began=0.0, slow_until=20.0)
    assert 815 <= steps <= 820, "20 slow steps, and then ten a second"
    assert ended > 99


def test_progress_never_falls_because_a_smaller_share_would_begin_a_stage() -> None:
    pace = Pace(1600, 100.0, 0.0)
    assert pace.target_steps(100, 19.8811) == 502
    assert pace.target_steps(101, 19.8815) == 508, "six steps more after a quick one"
    assert pace.share == 100 / 502


def test_a_training_has_some_steps_however_short_the_time() -> None:
    for steps, at_least in ((1600, MIN_STEPS), (50, 50)):
        pace = Pace(steps, 1.0, 0.0)
        assert trained(pace, began=0.0, slow_until=1e6)[0] == at_least
        assert pace.words == f"training: --minutes is too short, so {at_least} steps each"
    assert trained(pace := Pace(1600, 250.0, 0.0), began=0.0, slow_until=1e6)[0] == 250
    assert pace.words == "training"


def test_a_training_gets_its_part_of_what_the_others_left() -> None:
    limit = TimeLimit(10, 6, 0.0)
    assert limit.seconds_for_next(0.0) == 90
    limit.on_trained(1600)
    assert limit.seconds_for_next(50.0) == 99, "the first one needed less"
    limit.on_trained(812)
    (warning,) = limit.warnings(1600)
    words = "--minutes 10 allowed each training only 812 to 1,600 (812 for the bundle's own model) of 1,600 steps"
    assert warning.startswith(words)
    assert "--steps gives all the same number" in warning


def test_trainings_with_all_steps_warn_of_nothing() -> None:
    limit = TimeLimit(None, 1, 0.0)
    assert limit.seconds_for_next(0.0) == math.inf
    limit.on_trained(1600)
    assert not limit.warnings(1600)

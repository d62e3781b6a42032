"""Short forms of `python -m rigs.rows`."""

import numpy as np
import pytest

from convert.learning.runs import MAX_BLOCKS, MIN_BLOCKS
from rigs.rows.breaks import check_drift, check_set, simulated
from rigs.rows.estimate import filter_hours, pump_power
from rigs.rows.runs import SOURCES, read
from rigs.rows.unlike import check
from rigs.rows.unusual import check_alarms, check_board, check_standstills


def test_unusual_names_broken_sensors_gives_few_false_alarms_and_costs_little() -> None:
    assert all(check_alarms(range(3), rows=1000, later=2000, broken=200, codes=0.003, asked_for=[100]))
    assert all(check_standstills(range(1), rows=500, later=500))
    assert check_board()


@pytest.mark.parametrize("name", SOURCES)
def test_rows_of_each_source_of_runs_are_held_out_in_groups(name: str) -> None:
    source = SOURCES[name]
    rows = read(source.draw(np.random.default_rng(1), source.runs))
    groups = len({row.group for row in rows})
    assert groups == source.runs if name in {"episodes", "days"} else MIN_BLOCKS <= groups <= MAX_BLOCKS


def test_the_plants_of_estimate_have_rows_that_say_much_about_their_numbers() -> None:
    for make, field, least in ((filter_hours, "dust_mg_m3", 0.3), (pump_power, "speed_rpm", 0.7)):
        rows = make(np.random.default_rng(0), 1000)
        related = np.corrcoef([value[field] for value, _ in rows], [answer for _, answer in rows])[0, 1]
        assert least < abs(related) < 0.99
        assert min(answer for _, answer in rows) >= 0


def test_what_breaks_in_a_field_is_named_and_ordinary_rows_are_not() -> None:
    assert all(check_set(name, draw_rows, range(1)) for name, draw_rows in simulated().items())
    assert all(check_drift(range(2)))


def test_a_trained_model_notices_readings_whose_numbers_do_not_go_together() -> None:
    shares = check("pump", 0)
    assert shares["each number from another row"] > 0.8
    assert shares["ordinary"] < 0.03

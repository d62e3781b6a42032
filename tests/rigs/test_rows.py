"""Short forms of `python -m rigs.rows`."""

from rigs.rows.unusual import check_alarms, check_board


def test_unusual_names_broken_sensors_gives_few_false_alarms_and_costs_little() -> None:
    assert all(check_alarms(range(3), rows=1000, later=2000, broken=200, asked_for=[100]))
    assert check_board()

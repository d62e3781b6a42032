from tests.helpers.facts import pool_facts


def test_the_pool_as_the_board_knows_it() -> None:
    figures = {"waiting": 3, "places_of_all": 12, "dead_letters": 0}
    own = {"name": "pumps", "connected_s": 10.0, "places": 4}
    totals = {"claimed_total": 9, "given_back_total": 1, "repeated_total": 0, "per_minute": 8, "waited_ms": 12.0}
    assert pool_facts().as_health() == {**own, **totals, **figures}
    lost = pool_facts(connected_s=None, queue=None).as_health()
    assert lost == {**own, "connected_s": None, **totals, **dict.fromkeys(figures)}

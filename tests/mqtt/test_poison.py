"""What breaks connections is dropped, and nothing else: on links that are played, on a clock of their own."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.core.publications import Publication
from edge_agent.mqtt.first_in_line import SUSPECTED_AFTER
from edge_agent.mqtt.poison import BELIEVED_RETAINED_S, KIND, Poison
from tests.helpers.bad_links import LINKS, POISONS, Phase, World, message, outage, poisoned

pytestmark = pytest.mark.expects_warning


@pytest.mark.parametrize("seed", range(12))
def test_a_bad_network_costs_no_message(seed: int) -> None:
    world = outage(seed)
    assert (world.lost(), world.dropped, world.refused, len(world.outbox)) == ([], {}, [], 0)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize(("link", "within_s", "waits_s"), [("near", 150, 10), ("far", 900, 60)])
def test_what_the_broker_cannot_stand_is_dropped_and_all_else_arrives_meanwhile(
    link: str, within_s: float, waits_s: float, poison: str
) -> None:
    world = poisoned(link, poison, seed=1, horizon_s=900.0)
    bad = [number for number, (_, one) in world.published.items() if world.is_poison(one)]
    assert world.lost() == []
    assert not [number for number in world.dropped if number not in bad]
    if poison in ("info", "state", "retained"):
        assert world.breaks < 100
        return
    assert sorted(world.dropped) == bad
    assert max(world.dropped[number] - world.published[number][0] for number in bad) < within_s
    waited = sorted(at - world.published[number][0] for number, at in world.arrived.items())
    assert waited[len(waited) * 99 // 100] < waits_s


def test_on_a_link_that_is_hardly_one_nothing_is_judged_and_all_else_arrives() -> None:
    world = poisoned("hardly any", "content", seed=1, horizon_s=600.0)
    assert (world.lost(), world.dropped) == ([], {})


def test_what_is_like_many_that_broke_connections_is_refused_for_a_while() -> None:
    world = World([LINKS["near"]], 1, POISONS["topic"])
    for number in range(3 * KIND):
        world.publish(10.0 + 10 * number, message(number, "bad", 500))
        world.publish(10.0 + 10 * number, message(number))
    world.run(600.0)
    assert len(world.arrived) == 3 * KIND
    assert len(world.dropped) >= KIND
    assert len(world.refused) > KIND
    assert world.outbox.takes(message(0, "bad", 450))


def test_once_the_broker_takes_it_again_it_is_sent_again() -> None:
    is_bad = True
    world = World([LINKS["near"]], 1, lambda one: is_bad and one.topic == "info")
    for minute in range(30):
        world.publish(60.0 * minute, message(minute, "info", retain=True))
    world.run(300.0)
    assert world.arrived == {}
    assert len(world.refused) > 0
    is_bad = False
    world.run(300.0 + BELIEVED_RETAINED_S + 120.0)
    assert max(world.arrived.values()) > 300.0
    world.run(1800.0)
    assert world.outbox.takes(message(0, "info", retain=True))


def test_of_what_is_retained_the_last_word_is_the_last() -> None:
    for seed in range(5):
        world = World([Phase(20.0), Phase(200.0, (0.3, 0.6), (0.5, 3.0)), Phase()], seed)
        for number in range(250):
            world.publish(float(number), message(number, "state", retain=True))
        world.run(400.0)
        assert world.received[-1] == message(249, "state", retain=True)


def set_aside(*messages: Publication) -> tuple[Poison, dict[int, Any], dict[int, int]]:
    """The first of them is first in line as connections break; paho's numbers are a hundred more."""
    poison = Poison(lambda: 0.5)
    waiting: dict[int, Any] = {number + 100: one for number, one in enumerate(messages)}
    numbers = {number + 100: number for number in range(len(messages))}
    for _ in range(SUSPECTED_AFTER):
        poison.sort_out(waiting, numbers, 0.0)
        poison.connected(waiting, 0.0)
        poison.answered()
        poison.broken(waiting, 0.1)
    poison.sort_out(waiting, numbers, 1.0)
    assert numbers.keys() == waiting.keys()
    return poison, waiting, numbers


def test_what_is_like_it_waits_with_it_and_the_rest_goes_on() -> None:
    first, larger, smaller, elsewhere = message(0), message(1, nbytes=900), message(2, nbytes=30), message(3, "r/2")
    poison, waiting, _ = set_aside(first, larger, smaller, elsewhere)
    assert list(waiting.values()) == [smaller, elsewhere]
    assert len(poison) == 2
    # Told once more, an answer may differ by a byte.
    assert poison.holds(5, message(5, nbytes=299))
    assert not poison.holds(6, smaller)
    assert not poison.holds(7, elsewhere)
    assert poison.doubts("r/1")
    assert not poison.doubts("r/2")


def test_one_that_passes_lets_go_what_was_only_like_the_one_that_is_suspected() -> None:
    poison, waiting, numbers = set_aside(message(0), message(1), message(2))
    poison.connected(waiting, 10.0)
    sent: list[int] = []

    def send(number: int, one: Any) -> int:
        sent.append(number)
        waiting[number + 200], numbers[number + 200] = one, number
        return number + 200

    poison.send_again(send, waiting, 10, 10.1)
    assert sent == []
    poison.send_again(send, waiting, 10, 20.0)
    (tried,) = sent
    assert tried != 0
    del waiting[tried + 200]
    poison.passed(tried + 200, 20.1)
    poison.send_again(send, waiting, 10, 20.2)
    assert sent == [tried, 3 - tried]
    assert len(poison) == 1


def test_at_the_end_all_is_sent_after_all_the_least_suspected_first() -> None:
    poison, _, _ = set_aside(message(0), message(1), message(2))
    found = [poison.last() for _ in range(3)]
    assert sorted(one[0] for one in found if one is not None) == [0, 1, 2]
    assert found[-1] is not None
    assert found[-1][0] == 0
    assert poison.last() is None


def test_what_is_too_long_for_a_broker_is_taken_out_of_what_is_set_aside() -> None:
    poison, _, _ = set_aside(message(0), message(1, nbytes=900))
    assert poison.take_out(lambda one: len(one.payload) > 500) == [(1, "r/1")]
    assert len(poison) == 1

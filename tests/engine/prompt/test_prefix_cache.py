from __future__ import annotations

from collections.abc import Sequence

from edge_agent.engine.prompt.prefix_cache import Prefix, PrefixCache


def tasks(*prefixes: Sequence[int]) -> dict[str, Sequence[int]]:
    """A task "t0", "t1", … for each prefix."""
    return {f"t{number}": tokens for number, tokens in enumerate(prefixes)}


def decode_missing(cache: PrefixCache, *, free_cells: int = 1000) -> list[Prefix]:
    """As the engine does it: whatever is missing and fits is decoded and ready."""
    started = []
    while (prefix := cache.next_missing(free_cells - cache.cells)) is not None:
        cache.ready(prefix)
        started.append(prefix)
    return started


def test_the_second_request_reuses_every_token_that_it_shares_with_a_prefix() -> None:
    cache = PrefixCache([5, 6], max_cells=100)
    cache.want(tasks([1, 2, 3, 4]))
    decode_missing(cache)

    prefix, shared = cache.match([1, 2, 3, 9, 9])

    assert prefix is not None
    assert shared == 3


def test_the_longest_match_wins() -> None:
    cache = PrefixCache([5, 6], max_cells=100)
    cache.want(tasks([1, 2, 8, 8, 8, 8], [1, 2, 3, 4]))
    decode_missing(cache)

    prefix, shared = cache.match([1, 2, 3, 4, 5])

    assert prefix is not None
    assert prefix.tokens == (1, 2, 3, 4)
    assert shared == 4


def test_one_token_of_a_prompt_is_always_left_to_decode() -> None:
    cache = PrefixCache([5], max_cells=100)
    cache.want(tasks([1, 2, 3]))
    decode_missing(cache)

    assert cache.match([1, 2, 3])[1] == 2
    assert cache.match([1])[1] == 0
    assert cache.match([7, 8]) == (None, 0)


def test_a_prefix_that_is_still_being_decoded_matches_nothing() -> None:
    cache = PrefixCache([5], max_cells=100)
    cache.want(tasks([1, 2, 3]))
    prefix = cache.next_missing(100)
    assert prefix is not None

    assert cache.match([1, 2, 3, 4]) == (None, 0)
    cache.ready(prefix)
    assert cache.match([1, 2, 3, 4]) == (prefix, 3)


def test_prefixes_beyond_the_sequence_ids_or_the_cells_are_left_out() -> None:
    by_ids = PrefixCache([5, 6], max_cells=1000)
    by_ids.want(tasks(*([n, 1, 2] for n in range(32))))
    assert len(decode_missing(by_ids)) == 2

    by_cells = PrefixCache(range(32), max_cells=10)
    by_cells.want(tasks(*([n, 1, 2] for n in range(32))))
    assert by_cells.cells == 0
    decode_missing(by_cells)
    assert by_cells.cells == 9


def test_equal_prefixes_and_beginnings_of_others_need_no_place_of_their_own() -> None:
    cache = PrefixCache([5], max_cells=100)

    cache.want(tasks([1, 2], [1, 2, 3], [1, 2, 3], []))

    assert [prefix.tokens for prefix in decode_missing(cache)] == [(1, 2, 3)]


def test_of_two_that_share_as_much_the_one_that_is_there_longer_is_taken() -> None:
    cache = PrefixCache([5, 6], max_cells=100)
    cache.want(tasks([1, 2, 3, 4], [1, 2, 7]))
    first, _ = decode_missing(cache)

    assert cache.match([1, 2, 3]) == (first, 2)


def test_after_a_reload_the_old_prefix_stays_until_its_last_user_has_ended() -> None:
    cache = PrefixCache([5], max_cells=100)
    cache.want(tasks([1, 2, 3]))
    (old,) = decode_missing(cache)
    cache.use(old)

    cache.want(tasks([4, 5, 6]))
    assert cache.drop_unwanted() == []
    assert cache.next_missing(100) is None, "the only sequence id is still taken"

    cache.release(old)
    assert cache.drop_unwanted() == [5]
    new = cache.next_missing(100)
    assert new is not None
    assert (new.tokens, new.seq_id) == ((4, 5, 6), 5)


def test_idle_prefixes_make_room_and_come_back() -> None:
    cache = PrefixCache([5, 6], max_cells=100)
    cache.want(tasks([1, 2, 3], [4, 5, 6]))
    used, idle = decode_missing(cache)
    cache.use(used)

    assert cache.drop_idle() == [idle.seq_id]
    assert cache.cells == 3
    assert [prefix.tokens for prefix in decode_missing(cache)] == [(4, 5, 6)]


def test_a_prefix_does_not_come_back_while_there_is_no_room() -> None:
    cache = PrefixCache([5], max_cells=100)
    cache.want(tasks([1, 2, 3]))

    assert cache.next_missing(2) is None
    assert cache.next_missing(3) is not None


def test_a_prefix_that_cannot_be_decoded_is_not_tried_again() -> None:
    cache = PrefixCache([5, 6], max_cells=100)
    cache.want(tasks([1, 2, 3]))
    prefix = cache.next_missing(100)
    assert prefix is not None

    cache.give_up(prefix)
    cache.drop_all()

    assert cache.next_missing(100) is None
    assert cache.cells == 0


def test_a_request_waits_for_the_prefix_of_its_task_if_that_is_worth_it() -> None:
    cache = PrefixCache([5, 6], max_cells=100)
    cache.want(tasks(range(20), [7, 7, 7]))

    assert cache.missing_for("t0", [*range(20), 99], shared=0) == tuple(range(20))
    assert cache.missing_for("t0", [*range(20), 99], shared=15) is None
    assert cache.missing_for("t1", [7, 7, 7, 9], shared=0) is None, "three tokens are decoded sooner than waited for"
    assert cache.missing_for("unknown", [*range(20), 99], shared=0) is None


def test_a_task_whose_prefix_begins_another_one_waits_for_that() -> None:
    cache = PrefixCache([5], max_cells=100)
    cache.want(tasks(range(10), range(20)))

    assert cache.missing_for("t0", [*range(10), 99], shared=0) == tuple(range(20))


def test_the_least_recently_used_prefix_makes_room_for_a_new_one() -> None:
    cache = PrefixCache([5, 6], max_cells=100)
    cache.want(tasks([1, 2, 3], [4, 5, 6], [7, 8, 9]))
    first, second = decode_missing(cache)
    for prefix in (first, second, first):
        cache.use(prefix)
        cache.release(prefix)

    assert cache.victims((7, 8, 9), 1000) == [second]
    assert cache.drop([second]) == [second.seq_id]
    assert cache.add((7, 8, 9)).seq_id == second.seq_id


def test_prefixes_in_use_never_make_room() -> None:
    cache = PrefixCache([5], max_cells=100)
    cache.want(tasks([1, 2, 3], [7, 8, 9]))
    (only,) = decode_missing(cache)
    cache.use(only)

    assert cache.victims((7, 8, 9), 1000) is None


def test_as_many_make_room_as_the_cells_of_the_new_one_need() -> None:
    cache = PrefixCache(range(8), max_cells=100)
    cache.want(tasks(*([50 + n, 1, 2] for n in range(3)), range(9)))
    decode_missing(cache, free_cells=9)

    assert len(cache.victims(tuple(range(9)), 0) or []) == 3
    assert len(cache.victims(tuple(range(9)), 4) or []) == 2
    assert cache.victims(tuple(range(9)), 9) == []

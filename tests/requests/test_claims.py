"""Requests of a pool are answered, given back for other boards, or end as dead letters."""

from typing import Any

import pytest

from edge_agent.board.governor import Level, Limits
from edge_agent.core.codes import Code
from edge_agent.core.pipe import Partial
from edge_agent.core.topics import TaskTopics
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.pool.claim import MAX_DELIVERIES, Claim
from edge_agent.requests.parse import RequestParser
from tests.helpers.support import Desk, code_of, finished, inbound

POOL = "edgeai/v1/hall1/pool/pumps"
ANSWERED, GIVEN_BACK = "answered", "given back"
RATE = "[queue]\nrate_per_minute = 1\n"


class PoolDesk(Desk):
    """A board of the pool, and what became of its claims."""

    def __init__(self, text: str = "", *, slots: int = 1) -> None:
        super().__init__(f'[pool]\nname = "pumps"\n{text}', slots=slots)
        self.outcomes: list[tuple[Any, str]] = []

    def claim(
        self,
        payload: Any,
        *,
        task: str = "generate",
        now: float = 0.0,
        deliveries: int = 1,
        dead_because: str | None = None,
        **fields: Any,
    ) -> None:
        """This board gets a request at `now`, which came to the pool at 0."""
        claim = Claim(
            message=inbound(f"{POOL}/infer/{task}/request", payload, **fields),
            topics=TaskTopics(POOL),
            deliveries=deliveries,
            dead_because=dead_because,
            acknowledge=lambda: self.outcomes.append((payload, ANSWERED)),
            requeue=lambda: self.outcomes.append((payload, GIVEN_BACK)),
        )
        self.dispatcher.admission.receive_shared(claim, now)
        self.dispatcher.fill_slots(now)

    def confirm_all(self) -> None:
        """The broker confirms every reply."""
        sent = len(self.publications)
        self.outlet.results = [(number, PublishResult.CONFIRMED) for number in range(1, sent + 1)]
        self.delivery.flush(0.0)

    @property
    def places(self) -> int:
        return self.dispatcher.spare_slots


@pytest.mark.parametrize("deliveries", [1, 2])
def test_a_claim_is_answered_once_the_broker_has_the_reply_which_says_whether_it_was_delivered_before(
    deliveries: int,
) -> None:
    desk = PoolDesk()
    desk.claim("x", deliveries=deliveries, correlation=b"c")
    desk.dispatcher.on_worker_answer(finished(1), 1.0)
    assert (desk.reply["status"], desk.reply["device"], desk.reply["repeat"]) == ("ok", "board1", deliveries == 2)
    assert (desk.publication.topic, desk.publication.correlation) == (f"{POOL}/infer/generate/response", b"c")
    assert desk.outcomes == []
    desk.confirm_all()
    assert desk.outcomes == [("x", ANSWERED)]


def test_callers_name_their_reply_topics_as_with_one_board() -> None:
    desk = PoolDesk(slots=0)
    desk.claim("x", task="nosuch", deliveries=MAX_DELIVERIES, response_topic=f"{POOL}/infer/generate/response/me")
    desk.claim("x", deliveries=MAX_DELIVERIES, response_topic="elsewhere")
    mine, refused = desk.publications
    assert mine.topic == f"{POOL}/infer/generate/response/me"
    assert (refused.topic, code_of(desk.replies[1])) == (f"{POOL}/infer/generate/response", "reply_topic_refused")


def test_a_reply_that_its_topic_refuses_goes_to_the_topic_of_the_pool() -> None:
    desk = PoolDesk()
    desk.claim("x", response_topic="edgeai/v1/reply/me")
    desk.dispatcher.on_worker_answer(finished(1), 1.0)
    assert desk.publication.topic == "edgeai/v1/reply/me"
    desk.outlet.results = [(1, PublishResult.FORBIDDEN)]
    desk.delivery.flush(0.0)
    desk.delivery.flush(0.0)
    assert [one.topic for one in desk.outlet.sent[1:]] == [f"{POOL}/infer/generate/response"]
    desk.outlet.results = [(2, PublishResult.CONFIRMED)]
    desk.delivery.flush(0.0)
    assert desk.outcomes == [("x", ANSWERED)]


class TestGivenBack:
    """What says something of this board, not of the request, is left to other boards."""

    FULL = "[queue]\ncapacity = 1\n"

    def test_what_finds_no_place_goes_back(self) -> None:
        desk = PoolDesk(self.FULL)
        for payload in "abc":
            desk.claim(payload)
        assert desk.outcomes == [("c", GIVEN_BACK)]
        assert desk.replies == []
        assert desk.dispatcher.as_health(0.0)["queue"]["rejected_total"] == 0

    def test_what_waited_too_long_is_refused_by_the_first_board(self) -> None:
        desk = PoolDesk(self.FULL)
        for payload in "abc":
            desk.claim({"input": payload, "deadline_ms": 2000}, now=1.5 if payload == "c" else 0.0)
        assert code_of(desk.reply) == "queue_full"

    def test_the_last_board_that_may_get_it_answers(self) -> None:
        desk = PoolDesk(self.FULL)
        for payload in "abc":
            desk.claim(payload, deliveries=MAX_DELIVERIES)
        assert code_of(desk.reply) == "queue_full"
        desk.confirm_all()
        assert desk.outcomes == [("c", ANSWERED)]

    def test_a_request_of_the_board_itself_takes_its_place(self) -> None:
        desk = PoolDesk(self.FULL)
        desk.claim("runs")
        desk.claim("waits")
        desk.ask({"input": "urgent", "priority": 0})
        assert desk.outcomes == [("waits", GIVEN_BACK)]
        assert desk.replies == []

    def test_one_that_equal_requests_wait_for_is_answered(self) -> None:
        desk = PoolDesk(self.FULL)
        desk.claim("runs")
        for _ in range(2):
            desk.claim({"input": "x", "id": "twin"})
        desk.ask({"input": "urgent", "priority": 0})
        assert [code_of(reply) for reply in desk.replies] == ["queue_full", "queue_full"]
        desk.confirm_all()
        assert {outcome for _, outcome in desk.outcomes} == {ANSWERED}

    def test_it_may_come_again(self) -> None:
        desk = PoolDesk(slots=0)
        desk.dispatcher.admission.is_draining = True
        desk.claim({"input": "x", "id": 1})
        desk.dispatcher.admission.is_draining = False
        desk.start_worker()
        desk.claim({"input": "x", "id": 1}, deliveries=2)
        desk.dispatcher.on_worker_answer(finished(1), 1.0)
        assert desk.statuses() == [(1, "ok")]

    def test_a_task_that_this_board_lacks(self) -> None:
        desk = PoolDesk()
        desk.claim("x", task="nosuch")
        assert desk.outcomes == [("x", GIVEN_BACK)]

    def test_a_drain_leaves_to_others_what_it_cannot_finish(self) -> None:
        desk = PoolDesk()
        desk.claim("runs")
        desk.claim("waits")
        desk.ask("own")
        assert desk.dispatcher.cancel("the drain ran out of time", 1.0, gives_back=True) == 3
        assert set(desk.outcomes) == {("runs", GIVEN_BACK), ("waits", GIVEN_BACK)}
        assert desk.cancels == [1]
        assert code_of(desk.reply) == "cancelled"
        desk.dispatcher.on_worker_answer(finished(1), 1.0)
        assert len(desk.replies) == 1

    def test_what_the_caller_did_wrong_is_answered(self) -> None:
        desk = PoolDesk(RATE)
        desk.claim("{", correlation=b"a")
        desk.claim("x", correlation=b"b")
        desk.claim("x", correlation=b"c")
        assert [code_of(reply) for reply in desk.replies] == ["bad_json", "rate_limited"]


@pytest.mark.parametrize(("reason", "end"), [("expired", "deadline"), ("delivery_limit", "engine_lost")])
def test_a_dead_letter_is_answered_and_never_run(reason: str, end: str) -> None:
    desk = PoolDesk()
    desk.claim("x", dead_because=reason, deliveries=20)
    assert code_of(desk.reply) == end
    assert desk.runs == []
    desk.confirm_all()
    assert desk.outcomes == [("x", ANSWERED)]


class TestPlaces:
    """A place is a request that the board would run at once."""

    def test_the_boards_own_requests_come_first(self) -> None:
        desk = PoolDesk(slots=3)
        assert desk.places == 3
        desk.claim("x")
        assert desk.places == 3
        desk.ask("own")
        assert desk.places == 2
        for _ in range(9):
            desk.ask("own")
        assert desk.places == 0

    def test_own_requests_start_before_those_of_the_pool_of_their_priority(self) -> None:
        desk = PoolDesk()
        desk.ask("first")
        desk.claim("pool")
        desk.ask({"input": "own", "deadline_ms": 86_000_000})
        desk.dispatcher.on_worker_answer(finished(1), 1.0)
        assert desk.runs[-1].messages[-1].content == "own"

    def test_a_board_that_cannot_run_any_has_none(self) -> None:
        desk = PoolDesk(slots=0)
        assert desk.places == 0
        desk.start_worker(2)
        desk.dispatcher.is_paused = True
        assert desk.places == 0
        desk.dispatcher.is_paused = False
        assert desk.places == 2
        desk.dispatcher.admission.is_draining = True
        assert desk.places == 0

    def test_a_hot_board_has_fewer_and_then_none(self) -> None:
        desk = PoolDesk(slots=4)
        desk.dispatcher.slots.limits = Limits(level=Level.WARM, causes=(Code.OVERHEATED,), max_active=2)
        assert desk.places == 2
        hot = Limits(level=Level.HOT, causes=(Code.OVERHEATED,), max_active=2, lowest_priority=5)
        desk.dispatcher.slots.limits = hot
        assert desk.places == 0


def test_a_claim_runs_with_the_boards_own_task_settings() -> None:
    desk = PoolDesk()
    desk.claim({"input": "x"}, task="urgent")
    assert desk.runs[0].max_tokens == 7


def test_a_reply_that_is_dropped_lets_another_board_answer() -> None:
    desk = PoolDesk()
    desk.claim("x")
    desk.outlet.is_full = True
    desk.dispatcher.on_worker_answer(finished(1), 1.0)
    assert desk.publications == []
    assert desk.outcomes == [("x", GIVEN_BACK)]


class TestStreams:
    def test_a_request_that_was_delivered_before_streams_no_pieces(self) -> None:
        desk = PoolDesk(slots=2)
        desk.claim({"input": "x", "stream": True})
        desk.claim({"input": "y", "stream": True}, deliveries=2)
        assert [run.stream for run in desk.runs] == [True, False]

    def test_one_whose_pieces_have_left_is_not_given_back(self) -> None:
        desk = PoolDesk()
        desk.claim({"input": "x", "stream": True})
        desk.dispatcher.send_partial(Partial(id=1, delta="x"))
        desk.dispatcher.cancel("the drain ran out of time", 1.0, gives_back=True)
        assert desk.outcomes == []
        assert code_of(desk.replies[-1]) == "cancelled"


@pytest.mark.expects_warning
@pytest.mark.parametrize(("reason", "outcome"), [(None, GIVEN_BACK), ("expired", ANSWERED)])
def test_one_that_meets_a_fault_of_ours_goes_to_another_board_or_ends(
    reason: str | None, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestParser, "parse_shared", lambda *_: 1 / 0)
    desk = PoolDesk()
    desk.claim("x", dead_because=reason)
    assert desk.outcomes == [("x", outcome)]


def test_a_wide_filter_brings_no_requests_and_replies_of_the_pool() -> None:
    desk = PoolDesk('[tasks.wide]\nkind = "generate"\nsubscribe = ["edgeai/v1/#"]\n')
    for end in ("request", "response"):
        desk.receive(inbound(f"{POOL}/infer/generate/{end}", "x"), 0.0)
    assert desk.runs == []


@pytest.mark.parametrize("task", ["#", "+", "a b", "x" * 300, ""])
def test_a_task_that_no_topic_can_name_is_answered(task: str) -> None:
    desk = PoolDesk()
    desk.claim("x", task=task, dead_because="delivery_limit")
    assert desk.publication.topic == f"{POOL}/infer//response"
    desk.confirm_all()
    assert desk.outcomes == [("x", ANSWERED)]


@pytest.mark.parametrize("claim", [{"dead_because": "expired"}, {"deliveries": MAX_DELIVERIES}])
def test_a_reply_that_is_dropped_everywhere_ends_the_request(claim: dict[str, Any]) -> None:
    desk = PoolDesk(slots=0)
    desk.outlet.is_full = True
    desk.claim("{", **claim)
    assert desk.publications == []
    assert desk.outcomes == [("{", ANSWERED)]

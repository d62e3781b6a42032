from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.topics import (
    Topics,
    ask_reply_topic,
    fill_publish_pattern,
    filter_fault,
    matches,
    name_fault,
    overlap,
    publish_pattern_fault,
    reply_topic_fault,
    wildcard_values,
)

TOPICS = Topics("edgeai/v1", "hall1", "board1")
BASE = "edgeai/v1/hall1/board1"


def test_every_topic_of_the_contract_lies_below_the_base() -> None:
    assert TOPICS.base == BASE
    assert TOPICS.state == f"{BASE}/state"
    assert TOPICS.info == f"{BASE}/info"
    assert TOPICS.health == f"{BASE}/health"
    assert TOPICS.alarm("overheating") == f"{BASE}/alarm/overheating"
    assert TOPICS.event("model-switched") == f"{BASE}/event/model-switched"
    assert TOPICS.request("pump") == f"{BASE}/infer/pump/request"
    assert TOPICS.response("pump") == f"{BASE}/infer/pump/response"
    assert TOPICS.command("ping") == f"{BASE}/cmd/ping"
    assert TOPICS.command_result("ping") == f"{BASE}/cmd/ping/result"
    assert TOPICS.all_requests == f"{BASE}/infer/+/request"
    assert TOPICS.all_commands == f"{BASE}/cmd/+"
    assert TOPICS.default_reply_topics == (f"{BASE}/infer/+/response/#", "edgeai/v1/reply/#")
    assert TOPICS.is_own(f"{BASE}/state")
    assert not TOPICS.is_own(BASE)
    assert not TOPICS.is_own(f"{BASE}1/state")


def test_the_reply_topic_of_ask_is_allowed_by_default() -> None:
    assert reply_topic_fault(ask_reply_topic("edgeai/v1", "a1"), TOPICS.default_reply_topics) is None


@pytest.mark.parametrize(
    ("topic", "task"),
    [
        (f"{BASE}/infer/pump/request", "pump"),
        (f"{BASE}/infer/no such task!/request", "no such task!"),
        (f"{BASE}/infer/request/request", "request"),
        (f"{BASE}/infer//request", ""),
        (f"{BASE}/infer/pump/response", None),
        (f"{BASE}/infer/request", None),
        (f"{BASE}/infer/a/b/request", None),
        ("edgeai/v1/hall1/board2/infer/pump/request", None),
        (f"x/{BASE}/infer/pump/request", None),
        ("plant/1/request", None),
    ],
)
def test_the_task_is_read_from_a_request_topic(topic: str, task: str | None) -> None:
    assert TOPICS.task_of_request(topic) == task


@pytest.mark.parametrize(
    ("topic", "operation"),
    [
        (f"{BASE}/cmd/ping", "ping"),
        (f"{BASE}/cmd/no-such", "no-such"),
        (f"{BASE}/cmd/", ""),
        (f"{BASE}/cmd/ping/result", None),
        (f"{BASE}/cmd", None),
        (f"{BASE}/state", None),
    ],
)
def test_the_operation_is_read_from_a_command_topic(topic: str, operation: str | None) -> None:
    assert TOPICS.operation_of_command(topic) == operation


# From the examples of MQTT 5, §4.7.1 and §4.7.2.
@pytest.mark.parametrize(
    ("topic_filter", "topic", "is_match"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/#", "sports", False),
        ("#", "anything/at/all", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("+", "finance", True),
        ("+/tennis/#", "sport/tennis/x/y", True),
        ("#", "$SYS/broker", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/broker", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("a/#", "a/$SYS", True),
        ("a/b", "a/b", True),
        ("a/b", "A/b", False),
        ("a/b", "a/b/", False),
        ("a/b/", "a/b", False),
        ("a//b", "a/b", False),
        ("a/+/b", "a//b", True),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, is_match: bool) -> None:  # noqa: FBT001
    assert matches(topic_filter, topic) is is_match


@pytest.mark.parametrize(
    ("topic_filter", "topic", "values"),
    [
        ("plant/+/vibration", "plant/press 4/vibration", ("press 4",)),
        ("+/x/+", "a/x/b", ("a", "b")),
        ("plant/+/#", "plant/a/b/c", ("a", "b/c")),
        ("plant/#", "plant", ("",)),
        ("plant/+/x", "plant//x", ("",)),
        ("plant/x", "plant/x", ()),
        ("plant/+/vibration", "plant/a/b/vibration", None),
    ],
)
def test_wildcards_stand_for_the_levels_they_matched(
    topic_filter: str, topic: str, values: tuple[str, ...] | None
) -> None:
    assert wildcard_values(topic_filter, topic) == values


_LEVELS = st.lists(st.text("ab+#$", max_size=2), min_size=1, max_size=4)


def _reference(topic_filter: list[str], topic: list[str]) -> bool:
    """§4.7 written down once more, level by level."""
    if topic_filter == ["#"]:
        return True
    if not topic_filter:
        return not topic
    if topic_filter[0] == "#":
        return True
    if not topic:
        return False
    return topic_filter[0] in ("+", topic[0]) and (
        _reference(topic_filter[1:], topic[1:]) or (topic_filter[1:] == ["#"] and not topic[1:])
    )


@given(filter_levels=_LEVELS, topic_levels=st.lists(st.text("ab$", max_size=2), min_size=1, max_size=4))
def test_matching_agrees_with_the_standard_on_any_filter(filter_levels: list[str], topic_levels: list[str]) -> None:
    topic_filter, topic = "/".join(filter_levels), "/".join(topic_levels)
    if filter_fault(topic_filter) or name_fault(topic):
        return
    expected = _reference(topic_filter.split("/"), topic.split("/"))
    if topic.startswith("$") and topic_filter[0] in "+#":
        expected = False
    assert matches(topic_filter, topic) is expected


@pytest.mark.parametrize("topic_filter", ["a", "a/b", "+", "#", "a/+/b", "a/#", "+/+/#", "/", "$SYS/#", "ü/ß", "a b"])
def test_good_filters_have_no_fault(topic_filter: str) -> None:
    assert filter_fault(topic_filter) is None


@pytest.mark.parametrize(
    ("topic_filter", "fault"),
    [
        ("", "1 to 65535"),
        ("a" * 65536, "1 to 65535"),
        ("ü" * 32768, "1 to 65535"),
        ("a#", "'#' stands alone"),
        ("a/#/b", "'#' stands alone"),
        ("#/a", "'#' stands alone"),
        ("a+/b", "'+' stands alone"),
        ("a/++", "'+' stands alone"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("a\ud800", "control characters"),
    ],
)
def test_a_bad_filter_is_refused_with_the_reason(topic_filter: str, fault: str) -> None:
    assert fault in str(filter_fault(topic_filter))


@pytest.mark.parametrize(
    ("topic", "fault"),
    [("", "1 to 4096"), ("a" * 65536, "1 to 4096"), ("a/+", "wildcards"), ("#", "wildcards"), ("a\x7f", "control")],
)
def test_a_topic_that_cannot_be_published_to_is_refused_with_the_reason(topic: str, fault: str) -> None:
    assert fault in str(name_fault(topic))


@pytest.mark.parametrize(
    "topic",
    [f"{BASE}/infer/pump/response", f"{BASE}/infer/pump/response/line 3", "edgeai/v1/reply", "edgeai/v1/reply/me/1"],
)
def test_the_default_allow_list_has_response_and_reply_topics(topic: str) -> None:
    assert reply_topic_fault(topic, TOPICS.default_reply_topics) is None


@pytest.mark.parametrize(
    "topic", [f"{BASE}/state", "homeassistant/x/config", "edgeai/v1/hall1/board2/infer/a/response"]
)
def test_a_reply_topic_off_the_list_is_refused_and_the_list_is_named(topic: str) -> None:
    assert "edgeai/v1/reply/#" in str(reply_topic_fault(topic, TOPICS.default_reply_topics))


@pytest.mark.parametrize(
    ("topic", "fault"),
    [
        ("x/request", "'/request'"),
        (f"{BASE}/infer/pump/request", "'/request'"),
        ("x/cmd/drain", "'cmd/'"),
        ("cmd/x", "'cmd/'"),
        (f"{BASE}/cmd/ping/result", "'cmd/'"),
        ("x/+", "wildcards"),
        ("x/#", "wildcards"),
        ("$SYS/x", "'$'"),
        ("", "1 to 4096"),
    ],
)
def test_some_reply_topics_are_refused_even_if_listed(topic: str, fault: str) -> None:
    assert fault in str(reply_topic_fault(topic, ("#", "$SYS/#", topic)))


@pytest.mark.parametrize("topic", ["a/cmd", "a/requests", "a/xcmd/b", "a/request/b"])
def test_topics_that_only_look_like_commands_or_requests_are_allowed(topic: str) -> None:
    assert reply_topic_fault(topic, ("#",)) is None


def test_publish_patterns_put_wildcards_in() -> None:
    assert fill_publish_pattern("plant/{1}/triage", ("press4",)) == "plant/press4/triage"
    assert fill_publish_pattern("{2}/{1}/{2}", ("a", "b/c")) == "b/c/a/b/c"
    assert fill_publish_pattern("plant/triage", ("a",)) == "plant/triage"
    assert fill_publish_pattern("plant/{1}", ("{2}",)) == "plant/{2}"


@pytest.mark.parametrize(
    ("pattern", "wildcards", "fault"),
    [
        ("plant/{2}/x", 1, "from 1 to 1"),
        ("plant/{0}/x", 1, "from 1 to 1"),
        ("plant/+/x", 1, "wildcards"),
        ("", 1, "1 to 4096"),
    ],
)
def test_a_bad_publish_pattern_is_refused_with_the_reason(pattern: str, wildcards: int, fault: str) -> None:
    assert fault in str(publish_pattern_fault(pattern, wildcards))


def test_a_good_publish_pattern_has_no_fault() -> None:
    assert publish_pattern_fault("plant/{1}/triage/{2}", 2) is None
    assert publish_pattern_fault("plant/all", 0) is None


@pytest.mark.parametrize("topic", ["edgeai/v1/reply/\uffff", "edgeai/v1/reply/\ufdd0", "edgeai/v1/reply" + "/a" * 200])
def test_topics_that_brokers_close_the_connection_on_are_refused(topic: str) -> None:
    assert reply_topic_fault(topic, ("edgeai/v1/reply/#",)) is not None
    assert name_fault(topic) is not None


@pytest.mark.parametrize(
    ("one", "other", "do"),
    [
        ("a/b", "a/b", True),
        ("a/#", "a", True),
        ("a/+", "a/b/c", False),
        ("+/b", "a/+", True),
        ("$SYS/#", "$SYS/+", True),
    ],
)
def test_filters_overlap_where_one_topic_can_fall_under_both(one: str, other: str, *, do: bool) -> None:
    assert overlap(one, other) is do
    assert overlap(other, one) is do

import pytest

from edge_agent.core.topics import (
    Topics,
    ask_reply_topic,
    fill_publish_pattern,
    filter_fault,
    matches,
    overlap,
    publish_pattern_fault,
    reply_topic_fault,
    wildcard_values,
)

TOPICS = Topics("edgeai/v1", "hall1", "board1")
BASE = "edgeai/v1/hall1/board1"


def test_own_topics_are_those_below_the_base() -> None:
    assert TOPICS.is_own(f"{BASE}/state")
    assert not TOPICS.is_own(BASE)
    assert not TOPICS.is_own(f"{BASE}1/state")


@pytest.mark.parametrize(
    ("topic", "task"),
    [
        (f"{BASE}/infer/pump/request", "pump"),
        (f"{BASE}/infer/no such task!/request", "no such task!"),
        (f"{BASE}/infer/request/request", "request"),
        (f"{BASE}/infer//request", ""),
        (f"{BASE}/infer/pump/response", None),
        (f"{BASE}/infer/a/b/request", None),
        (f"x/{BASE}/infer/pump/request", None),
    ],
)
def test_the_task_is_read_from_a_request_topic(topic: str, task: str | None) -> None:
    assert TOPICS.task_of_request(topic) == task


def test_the_operation_is_read_from_a_command_topic() -> None:
    ends = ("ping", "", "ping/result")
    assert [TOPICS.operation_of_command(f"{BASE}/cmd/{end}") for end in ends] == ["ping", "", None]


# The first ones are examples of MQTT 5, §4.7.1 and §4.7.2.
@pytest.mark.parametrize(
    ("topic_filter", "topic", "values"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", ("",)),
        ("sport/#", "sports", None),
        ("#", "anything/at/all", ("anything/at/all",)),
        ("sport/tennis/+", "sport/tennis/player1/ranking", None),
        ("sport/+", "sport", None),
        ("/+", "/finance", ("finance",)),
        ("+", "/finance", None),
        ("+/tennis/#", "sport/tennis/x/y", ("sport", "x/y")),
        ("#", "$SYS/broker", None),
        ("$SYS/#", "$SYS/broker", ("broker",)),
        ("a/#", "a/$SYS", ("$SYS",)),
        ("a/b", "a/b", ()),
        ("a/b", "A/b", None),
        ("a/b", "a/b/", None),
        ("a//b", "a/b", None),
        ("a/+/b", "a//b", ("",)),
        ("plant/+/vibration", "plant/press 4/vibration", ("press 4",)),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, values: tuple[str, ...] | None) -> None:
    assert wildcard_values(topic_filter, topic) == values
    assert matches(topic_filter, topic) is (values is not None)


@pytest.mark.parametrize(
    ("topic_filter", "fault"),
    [
        *((good, "None") for good in ("a", "+", "#", "a/+/b", "a/#", "+/+/#", "/", "$SYS/#", "ü/ß", "a b")),
        ("", "1 to 65535"),
        ("a" * 65536, "1 to 65535"),
        ("ü" * 32768, "1 to 65535"),
        ("a#", "'#' must be a whole level"),
        ("a/#/b", "'#' must be a whole level"),
        ("#/a", "'#' must be a whole level"),
        ("a+/b", "'+' must be a whole level"),
        ("a/++", "'+' must be a whole level"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("a\ud800", "control characters"),
    ],
)
def test_a_bad_filter_is_refused_with_the_reason(topic_filter: str, fault: str) -> None:
    assert fault in str(filter_fault(topic_filter))


@pytest.mark.parametrize(
    ("topic", "fault"),
    [
        (f"{BASE}/infer/pump/response", "None"),
        (f"{BASE}/infer/pump/response/line 3", "None"),
        ("edgeai/v1/reply", "None"),
        (ask_reply_topic("edgeai/v1", "a1"), "None"),
        (f"{BASE}/state", "edgeai/v1/reply/#"),
        ("homeassistant/x/config", "edgeai/v1/reply/#"),
        ("edgeai/v1/hall1/board2/infer/a/response", "edgeai/v1/reply/#"),
    ],
)
def test_the_default_allow_list_has_response_and_reply_topics(topic: str, fault: str) -> None:
    assert fault in str(reply_topic_fault(topic, TOPICS.default_reply_topics))


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
        ("a" * 65536, "1 to 4096"),
        ("a\x7f", "control"),
        ("reply/\uffff", "noncharacters"),
        ("reply/\ufdd0", "noncharacters"),
        ("reply" + "/a" * 200, "at most 100 levels"),
        ("a/cmd", "None"),
        ("a/requests", "None"),
        ("a/xcmd/b", "None"),
        ("a/request/b", "None"),
    ],
)
def test_some_reply_topics_are_refused_even_if_listed(topic: str, fault: str) -> None:
    assert fault in str(reply_topic_fault(topic, ("#", "$SYS/#", topic)))


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
        ("plant/{1}/x", 0, "{1} stands for a wildcard, of which there should be one in each filter"),
        ("plant/+/x", 1, "wildcards"),
        ("", 1, "1 to 4096"),
        ("plant/{1}/triage/{2}", 2, "None"),
        ("plant/all", 0, "None"),
    ],
)
def test_a_bad_publish_pattern_is_refused_with_the_reason(pattern: str, wildcards: int, fault: str) -> None:
    assert fault in str(publish_pattern_fault(pattern, wildcards))


def test_filters_overlap_where_one_topic_can_fall_under_both() -> None:
    pairs = [("a/b", "a/b"), ("a/#", "a"), ("a/+", "a/b/c"), ("+/b", "a/+"), ("$SYS/#", "$SYS/+")]
    for ordered in (pairs, [(second, first) for first, second in pairs]):
        assert [overlap(*pair) for pair in ordered] == [True, True, False, True, True]

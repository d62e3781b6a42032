"""Every topic name. No other module joins topic levels."""

import re
from itertools import zip_longest

# A broker closes the connection on a topic that is too long for it (mosquitto: 200 levels), at each attempt.
MAX_TOPIC_BYTES = 4096
MAX_LEVELS = 100
NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
# A broker may close the connection on these (MQTT 5 §1.5.4): control characters, surrogates, noncharacters.
_FORBIDDEN = re.compile(
    "[\0-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(map(chr, range(0xFFFE, 0x110000, 0x10000)))
    + "".join(map(chr, range(0xFFFF, 0x110000, 0x10000)))
    + "]"
)


class TaskTopics:
    """The topics of requests and their answers below `base`: those of a board, or of a pool."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.all_requests = self.request("+")

    def request(self, task: str) -> str:
        return f"{self.base}/infer/{task}/request"

    def response(self, task: str) -> str:
        return f"{self.base}/infer/{task}/response"

    def error(self, task: str) -> str:
        """The topic for replies without an output, of a task with `reply = "output"`."""
        return f"{self.base}/infer/{task}/error"

    def task_of_request(self, topic: str) -> str | None:
        """The task that a request topic names, or None for any other topic. The name may be empty: `+` matches that."""
        names = wildcard_values(self.all_requests, topic)
        return names[0] if names else None

    def is_own(self, topic: str) -> bool:
        return topic.startswith(f"{self.base}/")

    @property
    def all_responses(self) -> str:
        """The default topics of replies, and those below them."""
        return f"{self.response('+')}/#"


class Topics(TaskTopics):
    """The topics of one board."""

    def __init__(self, root: str, site: str, device: str) -> None:
        super().__init__(f"{root}/{site}/{device}")
        self.root = root
        self.state = f"{self.base}/state"
        self.info = f"{self.base}/info"
        self.health = f"{self.base}/health"
        self.all_feedback = self.feedback("+")
        self.all_commands = self.command("+")
        # Where replies may go unless the configuration says otherwise.
        self.default_reply_topics = (self.all_responses, f"{root}/reply/#")

    def signals(self, table: str) -> str:
        """The topic for the latest values of a table of `[signals]`."""
        return f"{self.base}/signals/{table}"

    def alarm(self, name: str) -> str:
        return f"{self.base}/alarm/{name}"

    def event(self, name: str) -> str:
        return f"{self.base}/event/{name}"

    def audit(self, task: str) -> str:
        """The topic for replies that ask for feedback, of a task with `reply = "output"`."""
        return f"{self.base}/infer/{task}/audit"

    def feedback(self, task: str) -> str:
        return f"{self.base}/infer/{task}/feedback"

    def feedback_result(self, task: str) -> str:
        return f"{self.feedback(task)}/result"

    def command(self, operation: str) -> str:
        return f"{self.base}/cmd/{operation}"

    def command_result(self, operation: str) -> str:
        return f"{self.base}/cmd/{operation}/result"

    def task_of_feedback(self, topic: str) -> str | None:
        names = wildcard_values(self.all_feedback, topic)
        return names[0] if names else None

    def operation_of_command(self, topic: str) -> str | None:
        names = wildcard_values(self.all_commands, topic)
        return names[0] if names else None


def pool_topics(root: str, site: str, pool: str) -> TaskTopics:
    """The topics that all boards of a pool answer."""
    return TaskTopics(f"{root}/{site}/pool/{pool}")


def is_name(text: str) -> bool:
    """Whether a site, a device, a task or a pool may have this name."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def discovery_config(prefix: str, object_id: str) -> str:
    """The topic on which Home Assistant discovers a device."""
    return f"{prefix}/device/{object_id}/config"


def discovery_status(prefix: str) -> str:
    """The topic on which Home Assistant announces its start."""
    return f"{prefix}/status"


def signals_topic(table: str, machine: str) -> str:
    """The topic of a reading of `[signals]`, as if it had come from the bus. No client can publish to it."""
    return f"$signals/{table}/{machine}"


def ask_reply_topic(root: str, unique: str) -> str:
    """A private reply topic of one run of `edge-agent ask`."""
    return f"{root}/reply/ask/{unique}"


def filter_fault(topic_filter: str) -> str | None:
    """What is wrong with a subscription filter (MQTT 5 §4.7), or None."""
    if not topic_filter or len(topic_filter.encode("utf-8", "surrogatepass")) > 65535:
        return "a topic filter must have 1 to 65535 bytes"
    if topic_filter.count("/") >= MAX_LEVELS:  # a broker may close the connection on it, at each attempt
        return f"a topic filter may have at most {MAX_LEVELS} levels"
    if _FORBIDDEN.search(topic_filter):
        return "a topic filter must not contain control characters"
    if topic_filter.startswith("$share/"):
        return "shared subscriptions are not supported"
    levels = topic_filter.split("/")
    if any("#" in level and level != "#" for level in levels) or "#" in levels[:-1]:
        return "'#' must be a whole level, and the last one"
    if any("+" in level and level != "+" for level in levels):
        return "'+' must be a whole level"
    return None


def topic_fault(topic: str) -> str | None:
    """What is wrong with a topic to publish to, or None."""
    if not topic or len(topic.encode("utf-8", "surrogatepass")) > MAX_TOPIC_BYTES:
        return f"a topic must have 1 to {MAX_TOPIC_BYTES} bytes"
    if topic.count("/") >= MAX_LEVELS:
        return f"a topic may have at most {MAX_LEVELS} levels"
    if "+" in topic or "#" in topic:
        return "a topic must not contain wildcards"
    if _FORBIDDEN.search(topic):
        return "a topic must not contain control characters or noncharacters"
    return None


def matches(topic_filter: str, topic: str) -> bool:
    """True if a topic matches a filter (MQTT 5 §4.7; wildcards do not match a leading `$`)."""
    return wildcard_values(topic_filter, topic) is not None


def wildcard_values(topic_filter: str, topic: str) -> tuple[str, ...] | None:
    """What the filter's wildcards match in this topic, in order; None if the topic does not match."""
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return None
    values: list[str] = []
    filter_levels, levels = topic_filter.split("/"), topic.split("/")
    for i, expected in enumerate(filter_levels):
        if expected == "#":
            return (*values, "/".join(levels[i:]))
        if i >= len(levels):
            return None
        if expected == "+":
            values.append(levels[i])
        elif expected != levels[i]:
            return None
    return tuple(values) if len(levels) == len(filter_levels) else None


def overlap(one: str, other: str) -> bool:
    """True if a topic can match both filters; a wildcard counts as matching a leading `$` here."""
    for left, right in zip_longest(one.split("/"), other.split("/")):
        if "#" in (left, right):
            return True
        if left is None or right is None or (left != right and "+" not in (left, right)):
            return False
    return True


_PLACEHOLDER = re.compile(r"\{(\d+)\}")


def publish_pattern_fault(pattern: str, wildcards: int) -> str | None:
    """What is wrong with a task's `publish`, given how many wildcards its `subscribe` filters have, or None."""
    if fault := reply_topic_fault(sample_of_publish_pattern(pattern)):
        return fault
    for number in _PLACEHOLDER.findall(pattern):
        if not wildcards:
            return f"{{{number}}} stands for a wildcard, of which there should be one in each filter"
        if not 1 <= int(number) <= wildcards:
            return f"{{n}} stands for the n-th wildcard of every filter, with n from 1 to {wildcards}"
    return None


def machine_pattern_fault(pattern: str, wildcards: int) -> str | None:
    """The same for a pattern of `[signals]`, whose other placeholders would stay in every topic as they are."""
    unknown = re.search(r"\{[^{}/]*\}", _PLACEHOLDER.sub("", pattern))
    return f"there is no placeholder {unknown[0]}" if unknown else publish_pattern_fault(pattern, wildcards)


def sample_of_publish_pattern(pattern: str) -> str:
    """A topic as the pattern may produce it."""
    return _PLACEHOLDER.sub("x", pattern)


def fill_publish_pattern(pattern: str, values: tuple[str, ...]) -> str:
    """`plant/{1}/triage` with the values of the wildcards put in."""
    return _PLACEHOLDER.sub(lambda match: values[int(match.group(1)) - 1], pattern)


def publish_filter(pattern: str) -> str | None:
    """What to subscribe to for the topics that the pattern produces; None if it is faulty, or begins with `$`.

    The pattern may be another's: `$share/…` would take messages away from their receivers.
    What a placeholder stands for counts as one level, although `#` matches several.
    """
    if pattern.startswith("$") or topic_fault(pattern):
        return None
    return "/".join("+" if "{" in level else level for level in pattern.split("/"))


def reply_topic_fault(topic: str, allowed: tuple[str, ...] = ("#",)) -> str | None:
    """Why no message from outside may make the agent publish there, or None. It prevents a confused deputy."""
    if topic.startswith("$"):
        return "a reply topic must not start with '$'"
    levels = topic.split("/")
    if levels[-1] == "request":
        return "a reply topic must not end in '/request'"
    if "cmd" in levels[:-1]:
        return "a reply topic must not be below a 'cmd/'"
    is_allowed = any(matches(topic_filter, topic) for topic_filter in allowed)
    return topic_fault(topic) or (None if is_allowed else f"should match one of {', '.join(allowed)}")

"""quality.json: one form for one content, and nothing else is read or written."""

import dataclasses
import json
import math
import re
from typing import Any

import pytest

from convert.errors import CheckpointError
from convert.report.boards import predicted_speeds
from convert.report.quality import Quality, decode
from tests.convert.qualities import make_quality


def changed(path: str, value: Any) -> bytes:
    """The sample with one field, `part.0.field`, set to another value; ... removes it."""
    content: Any = json.loads(make_quality().encode())
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place[int(name) if name.isdecimal() else name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(content).encode()


def test_what_is_encoded_is_decoded_to_the_same() -> None:
    for quality in (make_quality(), Quality(), dataclasses.replace(make_quality(), divergence=None, tasks=())):
        assert decode(quality.encode()) == quality
        assert decode(quality.encode()).encode() == quality.encode()


def test_the_document_is_canonical() -> None:
    data = make_quality().encode()
    content = json.loads(data)
    assert data == json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert content.keys() == {
        *("schema", "bundle", "reference", "texts", "divergence", "perplexity", "tasks", "tensors", "sizes", "speeds"),
    }
    assert content["tasks"][2]["reference_accuracy"] is None


def test_integers_are_read_where_numbers_are_expected() -> None:
    perplexity = decode(changed("perplexity", {"ratio": 1, "low": 1, "high": 1, "own": 9, "reference": 9})).perplexity
    assert perplexity is not None
    assert isinstance(perplexity.ratio, float)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 2, "quality.json.schema is 2, allowed is 1"),
        ("host", "pi", "quality.json.host is unknown, allowed is schema, reference,"),
        ("tasks", ..., "quality.json.tasks is missing; what is unknown is null"),
        ("tasks", None, "quality.json.tasks is null, allowed is a list"),
        ("texts", [], "quality.json.texts is [], allowed is an object with name, sha256, tokens, positions"),
        ("texts.name", "a\x1b[2J", r"quality.json.texts.name is 'a\x1b[2J', allowed is printable text of 1 to 200"),
        ("texts.name", "", "quality.json.texts.name is '', allowed is printable text"),
        ("texts.positions", 24_577, "quality.json.texts.positions is 24577, allowed is at most tokens = 24576"),
        ("reference.file_sha256", "AB" * 32, "allowed is a SHA-256 as 64 lower-case hex digits"),
        ("divergence.mean", -0.1, "quality.json.divergence.mean is -0.1, allowed is a number of 0 or more"),
        ("divergence.mean", True, "quality.json.divergence.mean is True, allowed is a number of 0 or more"),
        ("divergence.mean", 4.0, "quality.json.divergence.mean is 4.0, allowed is at most max = 3.17"),
        ("divergence.p99", 0.01, "quality.json.divergence.p99 is 0.01, allowed is at least p90 = 0.0498"),
        ("divergence.top1_agreement", 93.8, "top1_agreement is 93.8, allowed is a share from 0 to 1"),
        ("divergence.max", 10**400, "allowed is a number of 0 or more"),
        ("perplexity.ratio", 1.5, "quality.json.perplexity.ratio is 1.5, allowed is own / reference = 1.0117"),
        ("perplexity.ratio", 0, "quality.json.perplexity.ratio is 0.0, allowed is a number above 0"),
        ("perplexity.low", 1.2, "quality.json.perplexity.low is 1.2, allowed is at most ratio = 1.0117"),
        ("perplexity.high", 1.0, "quality.json.perplexity.high is 1.0, allowed is at least ratio = 1.0117"),
        ("perplexity.low", None, "quality.json.perplexity.high is 1.0153, allowed is an interval's end where low"),
        ("bundle.canaries", None, "quality.json.bundle.canaries is null, allowed is an integer from 0"),
        (
            "bundle.calibration.sha256",
            ...,
            "quality.json.bundle.calibration.sha256 is missing; what is unknown is null",
        ),
        ("tasks.0.gained", 4, "quality.json.tasks[0].gained is 4, allowed is lost + -2, what accuracy and"),
        ("tasks.0.lost", None, "quality.json.tasks[0].gained is 3, allowed is a count where lost and reference_acc"),
        ("tasks.0.reference_accuracy", None, "quality.json.tasks[0].gained is 3, allowed is a count where lost"),
        ("tasks.0.examples", 0, "quality.json.tasks[0].examples is 0, allowed is 1 or more"),
        ("tasks.1.name", "pump state", "quality.json.tasks[1].name is 'pump state', allowed is a name not used"),
        ("tensors.3.bytes", 1.5, "quality.json.tensors[3].bytes is 1.5, allowed is an integer from 0"),
        ("tensors.3.divergence", "0", "quality.json.tensors[3].divergence is '0', allowed is a number"),
        ("sizes.0.is_own", 1, "quality.json.sizes[0].is_own is 1, allowed is true or false"),
        ("sizes.0.is_own", True, "quality.json.sizes: is_own is true more than once"),
        ("speeds.0.tokens_per_s", math.nan, "NaN is not allowed in JSON"),
    ],
)
def test_anything_else_is_refused_with_the_field_the_value_and_what_is_allowed(
    path: str, value: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        decode(changed(path, value))


def test_what_older_converters_wrote_is_read() -> None:
    content: Any = json.loads(make_quality().encode())
    del content["bundle"]
    for task in content["tasks"]:
        del task["gained"], task["lost"]
    quality = decode(json.dumps(content).encode())

    assert quality.bundle is None
    assert {(task.gained, task.lost, task.difference_interval) for task in quality.tasks} == {(None, None, None)}
    assert quality.tensors == make_quality().tensors
    assert json.loads(quality.encode())["bundle"] is None


def test_what_could_not_be_read_again_is_not_written() -> None:
    divergence = make_quality().divergence
    assert divergence is not None
    for wrong in (math.nan, math.inf, -1.0):
        with pytest.raises(CheckpointError, match=r"quality\.json\.divergence\.error is .*, allowed is a number"):
            dataclasses.replace(make_quality(), divergence=dataclasses.replace(divergence, error=wrong)).encode()


def test_predicted_speed_is_bandwidth_over_bytes() -> None:
    speeds = {speed.board: speed for speed in predicted_speeds(340e6)}
    assert list(speeds) == ["Raspberry Pi 4", "Raspberry Pi 5", "RK3588", "Jetson Orin Nano", "Jetson Orin NX"]
    assert speeds["Raspberry Pi 5"].tokens_per_s == pytest.approx(17.1e9 / 340e6, abs=0.05)
    assert all(speed.source for speed in speeds.values())
    assert decode(Quality(speeds=predicted_speeds(340e6)).encode()).speeds == predicted_speeds(340e6)

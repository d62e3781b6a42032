"""Types and ranges. What the loader adds to them is tested in tests/test_loader.py."""

from __future__ import annotations

import socket

import pytest
from pydantic import ValidationError

from edge_agent.core.config import ClassifyTask, DeviceConfig, MqttConfig


def test_a_tls_table_turns_tls_on_with_its_port() -> None:
    assert MqttConfig.model_validate({"tls": {}}).effective_port == 8883
    assert MqttConfig.model_validate({}).effective_port == 1883


@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("press-04", True),
        ("edge_7.plant.local", True),
        *((name, False) for name in ("raspberrypi", "localhost", "debian", "ubuntu", "orangepi", "RaspberryPi.local")),
        ("", False),
        ("bad!name", False),
    ],
)
def test_the_host_name_is_the_device_unless_it_is_that_of_an_image(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    is_good: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    if is_good:
        assert DeviceConfig.model_validate({"site": "hall1"}).id == name.split(".", maxsplit=1)[0]
    else:
        with pytest.raises(ValidationError, match="required: the host name"):
            DeviceConfig.model_validate({"site": "hall1"})


@pytest.mark.parametrize("count", [2, 200])
def test_2_to_200_labels_are_allowed(count: int) -> None:
    labels = [f"l{number}" for number in range(count)]
    assert ClassifyTask.model_validate({"kind": "classify", "labels": labels}).labels == tuple(labels)


def test_201_labels_are_refused() -> None:
    with pytest.raises(ValidationError, match="at most 200 items"):
        ClassifyTask.model_validate({"kind": "classify", "labels": [f"l{number}" for number in range(201)]})

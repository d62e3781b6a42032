"""Home Assistant's MQTT discovery of a board, as a device with entities for selected figures of health and all alarms.

Format: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

import hashlib
import math
import re
from collections.abc import Iterator
from typing import Any

from edge_agent import __version__
from edge_agent.core.config import Config
from edge_agent.core.messages import Publication, clear_retained, json_publication
from edge_agent.core.topics import discovery_config
from edge_agent.status.alarms import ALARMS

# A board that drains still publishes its health.
_AVAILABLE = "{{ 'online' if value_json.state in ('online', 'draining') else 'offline' }}"
_DIAGNOSTIC = {"entity_category": "diagnostic"}
_PROBLEM: dict[str, Any] = {"platform": "binary_sensor", "device_class": "problem", **_DIAGNOSTIC}


def _measured(unit: str, device_class: str | None = None, state_class: str = "measurement") -> dict[str, Any]:
    known = {"device_class": device_class} if device_class else {}
    return {**known, "unit_of_measurement": unit, "state_class": state_class}


# Figures of the health document, each with its name for people, its path, and more fields of the entity.
_SENSORS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Health", "overall", {"device_class": "enum", "options": ["ok", "degraded", "critical"]}),
    ("Queue", "queue.depth", _measured("requests")),
    ("Decode rate", "inference.decode_tok_s", _measured("tok/s")),
    ("Latency p95", "inference.latency_ms.p95", _measured("ms", "duration")),
    ("Power", "power.watts", _measured("W", "power")),
    ("Energy", "power.joules_total", _measured("J", "energy", "total_increasing")),
    ("SoC temperature", "thermal.soc_c", _measured("°C", "temperature") | _DIAGNOSTIC),
    # No `temperature`, because this is a difference, from which that class would subtract 32 for degrees Fahrenheit.
    ("Headroom", "thermal.headroom_c", _measured("°C") | _DIAGNOSTIC),
    ("Governor level", "governor.level", _DIAGNOSTIC),
    ("CPU", "cpu.percent", _measured("%") | _DIAGNOSTIC),
    ("Memory available", "memory.available_mb", _measured("MB", "data_size") | _DIAGNOSTIC),
    ("Disk free", "disk.free_mb", _measured("MB", "data_size") | _DIAGNOSTIC),
)
_BITS = (("Throttled", "thermal.throttled_now"), ("Undervoltage", "power.undervoltage_now"))


def discovery(config: Config, board_model: str) -> Publication | None:
    """The retained message, empty to remove the board; None where the configuration says nothing."""
    if config.homeassistant.enabled is None:
        return None
    if not config.homeassistant.enabled:
        return withdrawal(config)
    topic = discovery_config(config.homeassistant.prefix, object_id(config))
    return json_publication(topic, discovery_document(config, board_model), retain=True)


def withdrawal(config: Config) -> Publication:
    """The retained message that removes the board of this configuration from Home Assistant."""
    return clear_retained(discovery_config(config.homeassistant.prefix, object_id(config)))


def object_id(config: Config) -> str:
    """The device's name; the digest separates `a_b`/`c` from `a`/`b_c`, and boards of another root."""
    digest = hashlib.sha256(config.topics.base.encode()).hexdigest()[:8]
    return f"{config.device.site}_{config.device.id}_{digest}"


def discovery_document(config: Config, board_model: str) -> dict[str, Any]:
    identity = object_id(config)
    components = dict(_components(config))
    for key, component in components.items():
        component["unique_id"] = f"{identity}_{key}"
    return {
        "device": {
            "identifiers": [identity],
            "name": f"{config.device.site} {config.device.id}",
            "model": board_model,
            "sw_version": __version__,
        },
        "origin": {"name": "edge-agent", "sw_version": __version__},
        "availability": [{"topic": config.topics.state, "value_template": _AVAILABLE}],
        "state_topic": config.topics.health,
        "components": components,
    }


def _components(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    # Figures expire with the health that they come from; the state of the connection does not.
    fresh = {"expire_after": math.ceil(3 * config.health.interval_s)}
    yield "state", {
        "platform": "sensor",
        "name": "State",
        "device_class": "enum",
        "options": ["online", "draining", "stopped", "offline"],
        "state_topic": config.topics.state,
        "value_template": "{{ value_json.state }}",
        "json_attributes_topic": config.topics.state,
        "availability": [],
    }  # fmt: skip
    for name, path, more in _SENSORS:
        # Jinja writes null as `None`, which Home Assistant takes for unknown.
        template = f"{{{{ value_json.{path} }}}}"
        yield _key(name), {"platform": "sensor", "name": name, "value_template": template, **more, **fresh}
    for name, task in config.tasks.items():
        if task.enabled and task.notable is not None:
            counts = f"value_json.inference.notable.get('{name}', {{}})"
            yield (
                f"notable_{name}",
                {
                    "platform": "sensor",
                    "name": f"{task.notable.capitalize()}: {name}",
                    "value_template": f"{{{{ {counts}.get('notable_total', 0) }}}}",
                    # Its attributes have the number of all answers, too.
                    "json_attributes_topic": config.topics.health,
                    "json_attributes_template": f"{{{{ {counts} | tojson }}}}",
                    **_measured("readings", state_class="total_increasing"),
                    **fresh,
                },
            )
    for name, path in _BITS:
        template = f"{{{{ {{true: 'ON', false: 'OFF'}}.get(value_json.{path}) }}}}"
        yield _key(name), {**_PROBLEM, "name": name, "value_template": template, **fresh}
    for rule in ALARMS:
        name = f"Alarm {rule.name.replace('-', ' ')}"
        # Not the alarm's own topic: an alarm that was never raised is off, and one that nothing measures is unknown.
        template = f"{{{{ {{0: 'OFF', 1: 'ON', 2: 'ON'}}.get(value_json.severity['{rule.name}']) }}}}"
        message = {
            "json_attributes_topic": config.topics.alarm(rule.name),
            "json_attributes_template": "{{ value or '{}' }}",
        }
        yield _key(name), {**_PROBLEM, "name": name, "value_template": template, **message, **fresh}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())

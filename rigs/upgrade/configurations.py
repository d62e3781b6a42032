"""Each key of the old configuration in the new agent, and each new key in the old one."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rigs.upgrade.trees import NEW, OLD, Tree

SCHEMA = "import json; from {} import Config; print(json.dumps(Config.model_json_schema()))"
# What a schema says for people.
WORDS = ("title", "description", "default")
# A value, other than the default, for each key of 0.1.0 as an operator may have written it.
FULL = """
models_dir = "models"
state_dir = "state"
[device]
site = "hall1"
id = "press-04"
[mqtt]
host = ["broker1.example", "broker2.example"]
port = 8884
protocol = "3.1.1"
root = "plant/ai"
username = "press-04"
password_file = "password"
reply_topics = ["plant/reply/#"]
[mqtt.tls]
ca_file = "ca.pem"
cert_file = "cert.pem"
key_file = "key.pem"
[models.default]
path = "models/one"
public_key = "key.pub.pem"
chat_templates = ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
canary_interval_s = 60.0
[engine]
context_tokens = 2048
max_active = 2
threads = 2
prefill_threads = 4
batch_tokens = 64
[queue]
capacity = 10
default_deadline_ms = 5000
dedup_window_s = 60.0
max_payload_bytes = 1000
drain_timeout_s = 5.0
rate_per_minute = 100
journal = "memory"
[tasks.classify]
kind = "classify"
system = "Good or bad?"
template = "{{ input.text }}"
model = "default"
max_tokens = 10
deadline_ms = 1000
priority = 1
rate_per_minute = 10
max_payload_bytes = 500
subscribe = ["plant/+/reading"]
publish = "plant/{1}/verdict"
keep = "latest"
labels = ["good", "bad"]
min_score = 0.5
[tasks.extract]
kind = "extract"
schema = { type = "object", properties = { stop = { type = "boolean" } }, required = ["stop"] }
[tasks.generate]
max_tokens = 100
[commands]
allow = [
  "ping", "health", "drain", "resume", "cancel", "reload", "model-switch", "model-rollback", "quarantine-release",
]
key_file = "command_key"
[board]
root = "/"
[health]
interval_s = 5.0
[governor]
enabled = false
headroom_c = 3.0
memory_reserve_mb = 100.0
[homeassistant]
enabled = true
prefix = "ha"
[log]
level = "DEBUG"
"""


def keys_of(tree: Tree, module: str) -> dict[str, Any]:
    """What the value of each key may be; `*` in a key is any name."""
    command = [*tree.program()[:-2], "-c", SCHEMA.format(module)]
    schema = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found: dict[str, Any] = {}
    _collect(schema, schema["$defs"], "", found)
    return found


def _collect(schema: dict[str, Any], definitions: dict[str, Any], path: str, found: dict[str, Any]) -> None:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        _collect(branch, definitions, path, found)
    tables = dict(schema.get("properties", {}))
    for more in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()):
        if isinstance(more, dict) and more:
            tables["*"] = more
    for name, below in tables.items():
        found[f"{path}{name}"] = {word: value for word, value in below.items() if word not in WORDS}
        _collect(below, definitions, f"{path}{name}.", found)


# Every key that 0.1.0 does not know; what is below a table that it does not know is not named on its own.
NEW_KEYS = """
[device]
site = "hall1"
id = "press-04"
[mqtt]
max_packet_bytes = 100000
[pool]
name = "presses"
port = 5673
virtual_host = "plant"
[models.default]
path = "echo:"
public_keys = ["one.pem", "two.pem"]
revocations = "revocations.json"
[feedback]
enabled = true
keep = 200
days = 10.0
keep_inputs = true
[tasks.state]
kind = "classify"
labels = ["good", "bad"]
examples = [{ input = "fine", answer = "good" }]
examples_as = "system"
enabled = true
prior = "corrected"
audit_rate = 0.1
min_accuracy = 0.9
confidence = 0.9
agree = 0.9
top_scores = 1
score_map = { scale = { good = 1.0, bad = 1.0 }, bias = { good = 0.0, bad = 0.0 }, made_for = "0123456789abcdef" }
[tasks.words]
kind = "generate"
reply = "output"
temperature = 0.5
top_p = 0.9
reasoning = "include"
max_reasoning_tokens = 10
"""


@pytest.fixture(scope="module")
def keys() -> tuple[dict[str, Any], dict[str, Any]]:
    return keys_of(OLD, "edge_agent.config"), keys_of(NEW, "edge_agent.core.config")


def test_no_key_is_gone(keys: tuple[dict[str, Any], dict[str, Any]]) -> None:
    old, new = keys
    assert not old.keys() - new.keys()
    changed = {key for key in old if old[key] != new[key]}
    # Wider, or narrower only for what did not work before: another model than `default`, a port in `host`.
    assert changed == {
        *("commands.allow", "engine", "tasks.*.schema"),
        *("models", "tasks.*.model"),
        "queue.default_deadline_ms",
        "mqtt.host",
    }


def checked(tree: Tree, text: str, folder: Path) -> tuple[int, str]:
    """Exit code and words of `check-config`."""
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    done = tree.run("check-config", path)
    return done.returncode, done.stderr


def test_the_new_agent_takes_all_keys_of_the_old_one(
    keys: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    used = set(re.findall(r"^\[?(?:\w+\.)*(\w+)", FULL, flags=re.MULTILINE))
    assert {key.rsplit(".", 1)[-1] for key in keys[0]} - {"*", "models", "tasks"} <= used
    for tree in (OLD, NEW):
        assert checked(tree, FULL, tmp_path)[0] == 0


def test_the_old_agent_names_each_key_that_it_does_not_know(
    keys: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    assert checked(NEW, NEW_KEYS, tmp_path)[0] == 0
    code, words = checked(OLD, NEW_KEYS, tmp_path)
    assert code == 78
    named = re.findall(r"([\w.]+): unknown key", words)
    unknown = keys[1].keys() - keys[0].keys()
    assert {re.sub(r"^(tasks|models)\.\w+", r"\1.*", key) for key in named} == {
        key for key in unknown if key.rpartition(".")[0] not in unknown
    }


def test_the_samples_of_the_old_manual_are_good_for_the_new_agent(tmp_path: Path) -> None:
    texts = [path.read_text("utf-8") for path in OLD.folder.rglob("*.md")]
    samples = [
        sample for text in texts for sample in re.findall(r"^```toml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    ]
    good = [sample for sample in samples if checked(OLD, sample, tmp_path)[0] == 0]
    assert good
    for sample in good:
        assert checked(NEW, sample, tmp_path)[0] == 0, sample

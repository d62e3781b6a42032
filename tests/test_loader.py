import json
import os
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent.core.config import Config, DeviceConfig
from edge_agent.core.config_file import ConfigError
from edge_agent.loader import all_file_faults, config_hints, file_faults, load_config, signing_key_faults
from edge_agent.models.bundle import open_model
from edge_agent.requests.tasks import Task
from tests.helpers.keys import write_keys
from tests.helpers.support import BASE, CONFIG


def load(folder: Path, text: str, *, base: str = CONFIG) -> Config:
    path = folder / "config.toml"
    path.write_text(base + text, encoding="utf-8")
    return load_config(path)


def faults(folder: Path, text: str, *, base: str = CONFIG) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, base=base)
    assert caught.value.path == folder / "config.toml"
    for fault in caught.value.faults:
        assert fault in str(caught.value)
    return caught.value.faults


def fault(folder: Path, text: str, *, base: str = CONFIG) -> str:
    (only,) = faults(folder, text, base=base)
    return only


def test_a_minimal_configuration_has_the_defaults_of_the_contract(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.models_dir == Path("/var/lib/edge-agent/models")
    assert (config.mqtt.hosts, config.mqtt.effective_port, config.mqtt.protocol) == (("localhost",), 1883, "5")
    assert config.mqtt.root == "edgeai/v1"
    assert config.reply_topics == (f"{BASE}/infer/+/response/#", "edgeai/v1/reply/#")
    assert (config.queue.dedup_window_s, config.queue.max_payload_bytes) == (300.0, 65536)
    assert config.queue.default_deadline_ms == 60_000
    assert config.commands.allow == ("ping", "health")
    assert config.board.root == Path("/")
    assert config.health.interval_s == 10.0
    assert config.tasks == {}
    assert file_faults(config) == []
    assert [fault.partition(":")[0] for fault in all_file_faults(config)] == ["models.default.path"]


def test_relative_paths_start_at_the_configurations_folder_and_each_missing_file_is_a_fault(tmp_path: Path) -> None:
    text = """
    models_dir = "/srv/models"
    [device]
    site = "hall1"
    id = "board1"
    [mqtt]
    username = "board1"
    password_file = "secrets/password"
    [mqtt.tls]
    ca_file = "ca.pem"
    cert_file = "/etc/ssl/board.pem"
    key_file = "board.key"
    [models.default]
    path = "models/demo"
    public_key = "signer.pub.pem"
    [commands]
    key_file = "commands.key"
    """
    config = load(tmp_path, text, base="")
    assert config.mqtt.effective_port == 8883
    assert config.models_dir == Path("/srv/models")
    places = {
        "mqtt.password_file": tmp_path / "secrets/password",
        "mqtt.tls.ca_file": tmp_path / "ca.pem",
        "mqtt.tls.cert_file": Path("/etc/ssl/board.pem"),
        "mqtt.tls.key_file": tmp_path / "board.key",
        "commands.key_file": tmp_path / "commands.key",
        "models.default.public_key": tmp_path / "signer.pub.pem",
        "models.default.path": tmp_path / "models/demo",
    }
    found = all_file_faults(config)
    assert [fault.split(":")[0] for fault in found] == list(places)
    assert all(str(place) in fault for place, fault in zip(places.values(), found, strict=True))
    (tmp_path / "commands.key").write_text("x", encoding="utf-8")
    assert len(all_file_faults(config)) == len(found) - 1


def test_what_answers_are_not_held_to_is_a_hint(tmp_path: Path) -> None:
    text = """
    [tasks.x]
    kind = "extract"
    schema = { type = "object", properties = { v = { type = "array", uniqueItems = true } } }
    """
    (hint,) = config_hints(load(tmp_path, text))
    assert hint.startswith("tasks.x.schema: is validated, but not enforced while writing: ")


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ('subscribe = ["a/+/hz", "a/+/c"]', "subscribe: every message is a reading of its own"),
        ('subscribe = ["a/+"]\npublish = "b"\npublish_on = "change"', "publish: has no `{1}`, so answers to readings"),
        ('subscribe = ["a/+"]\nretain = true', "publish: has no `{1}`, so answers to readings"),
        ('subscribe = ["a/+"]\npublish = "b/{1}"\npublish_on = "change"\nretain = true', None),
        ('subscribe = ["a"]\npublish = "b"\npublish_on = "change"', None),
    ],
)
def test_readings_that_are_answered_each_by_itself_are_a_hint(tmp_path: Path, keys: str, hint: str | None) -> None:
    hints = config_hints(load(tmp_path, f'[tasks.x]\nkind = "generate"\n{keys}\n'))
    assert [found.removeprefix("tasks.x.")[: len(hint or "")] for found in hints] == ([hint] if hint else [])


VALUE = '[signals.pump.values]\nv = { topic = "a/+" }\n'
USER = '[tasks.x]\nkind = "generate"\nsignals = "pump"\n'


def test_a_table_of_signals_that_nothing_uses_is_a_hint(tmp_path: Path) -> None:
    (hint,) = config_hints(load(tmp_path, VALUE))
    assert hint.startswith('signals.pump: is not used: no task has `signals = "pump"`')
    assert config_hints(load(tmp_path, VALUE + USER)) == []
    assert config_hints(load(tmp_path, VALUE + USER.replace('"pump"', '["pump"]'))) == []
    assert config_hints(load(tmp_path, f"[signals.pump]\nrecord_every_s = 60\n{VALUE}")) == []


def test_readings_of_short_windows_for_a_model_of_whole_ones_are_a_hint(tmp_path: Path) -> None:
    odd = USER.replace("generate", "unusual")
    (hint,) = config_hints(load(tmp_path, VALUE + odd))
    assert hint.startswith("signals.pump.min_coverage: should be at least 0.95, because")
    for keys in ("min_coverage = 0.95", 'features = ["last"]'):
        assert config_hints(load(tmp_path, f"[signals.pump]\n{keys}\n{VALUE}{odd}")) == []


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("template = '{{ input.temp.last }}'", 'no reading of [signals.pump] fits it: input: has no "temp"'),
        ("template = '{{ input.v.mean_5m }}'", 'no reading of [signals.pump] fits it: input: has no "mean_5m"'),
        ("template = '{{ input.v + 1 }}'", "no reading of [signals.pump] fits it: input: does not fit the task's"),
        ("template = '{{ 1 / (input.v.last - 20) }} {{ input.v.mean_10m }} {{ topic }}'", None),
        ("publish = 'plant/{pump}/state'", "there is no placeholder {pump}"),
        ("publish = 'plant/{machine}/state'", None),
    ],
)
def test_what_could_never_answer_a_reading_of_signals_is_a_fault(tmp_path: Path, keys: str, fault: str | None) -> None:
    text = f"{USER}{keys}\n{VALUE}"
    if fault is None:
        assert config_hints(load(tmp_path, text)) == []
        return
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    (found,) = caught.value.faults
    assert fault in found


def test_a_fault_of_a_table_of_signals_is_no_fault_of_its_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"[signals.pump]\nwindow = 1\n{VALUE}{USER}{USER.replace('x', 'y').replace('pump', 'pmp')}")
    first, second = caught.value.faults
    assert first.startswith("signals.pump.window: unknown key (got 1); allowed: certificates, ")
    assert second == 'tasks.y.signals: should be one of pump (got "pmp")'


def test_a_fault_of_feedback_is_no_fault_of_tasks_that_ask_for_audits(tmp_path: Path) -> None:
    asking = '[tasks.x]\nkind = "classify"\nlabels = ["a", "b"]\naudit_rate = 0.5\n'
    only = fault(tmp_path, f"[feedback]\nenabled = true\ndrift_answers = 400\n{asking}")
    assert only.startswith("feedback.drift_answers: requires `keep` to be at least 1200")


MAPPED = """
[tasks.x]
kind = "classify"
labels = ["a", "b"]
[tasks.x.score_map]
made_for = "0123456789abcdef"
scale = { a = 1, b = 0.5 }
"""


def test_a_score_map_of_another_model_is_a_hint(demo_bundle: Path, tmp_path: Path) -> None:
    base = CONFIG.replace('"model.gguf"', json.dumps(str(demo_bundle)))
    config = load(tmp_path, f"{MAPPED}bias = {{ a = 0.0, b = -1 }}\n", base=base)
    assert config_hints(config) == [
        "tasks.x.score_map: made for another model or text, so it is not used; run `edge-agent tune` again"
    ]
    weights = open_model("default", demo_bundle).weights_sha256
    right = MAPPED.replace("0123456789abcdef", Task("x", config.tasks["x"]).basis_for(weights))
    assert config_hints(load(tmp_path, f"{right}bias = {{ a = 0.0, b = -1 }}\n", base=base)) == []


@pytest.mark.parametrize(
    ("bias", "named"),
    [
        ("{ a = 1 }", "tasks.x.score_map: bias should have a number for each of a, b"),
        ("{ a = 1, b = 1, c = 1 }", "tasks.x.score_map: bias should have a number for each of a, b"),
        ("{ a = 1, b = inf }", "tasks.x.score_map.bias.b: "),
        ('{ a = 1, b = "1" }', "tasks.x.score_map.bias.b: "),
    ],
)
def test_a_score_map_has_a_number_for_each_label(tmp_path: Path, bias: str, named: str) -> None:
    assert fault(tmp_path, f"{MAPPED}bias = {bias}\n").startswith(named)


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    text = """
    frobnicate = 1
    [device]
    site = "hall1"
    id = "board1"
    [mqtt]
    port = 0
    hots = "x"
    [models.default]
    [models.second]
    path = "x"
    [tasks.a]
    kind = "generate"
    priority = 10
    template = "{{ x"
    subscribe = ["plant/+/x", "a#"]
    [tasks.b]
    kind = "clasify"
    [tasks.c]
    kind = "classify"
    [tasks.d]
    kind = "extract"
    schema = "missing.json"
    [tasks.e]
    kind = "generate"
    subscribe = ["plant/+/x"]
    publish = "hall/e"
    [tasks.f]
    kind = "generate"
    subscribe = ["plant/#", "hall/+"]
    [commands]
    key_file = "missing"
    """
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "config.toml", all_file_faults)
    found = {name: text for name, _, text in (line.partition(": ") for line in caught.value.faults)}
    assert set(found) == {
        *("frobnicate", "mqtt.port", "mqtt.hots", "models.second", "models.default.path", "tasks.a.priority"),
        *("tasks.a.template", "tasks.a.subscribe[1]", "tasks.b.kind", "tasks.c.labels", "tasks.d.schema"),
        *("tasks.e.publish", "tasks.f.subscribe[0]", "commands.key_file"),
    }
    assert found["tasks.f.subscribe[0]"] == (
        'overlaps "plant/+/x" of tasks.e.subscribe[0]; use the same filter, or separate ones (got "plant/#")'
    )


FAULTS = [
    ("[mqtt]\nport = 70000", "mqtt.port: should be less than or equal to 65535 (got 70000)"),
    ("[mqtt]\nport = true", "mqtt.port: should be a valid integer (got true)"),
    ('[mqtt]\nprotocol = "4"', "mqtt.protocol: should be '5' or '3.1.1' (got \"4\")"),
    ('[mqtt]\nhost = "mqtt://x"', "mqtt.host: should be a host's name or address, without a port, or a list of 1 to 8"),
    ('[mqtt]\nhost = "broker:1884"', "mqtt.host: should be a host's name or address, without a port"),
    ('[mqtt]\nhost = ["a", "a"]', "mqtt.host: "),
    ('[mqtt]\nhost = ["a", "a..b"]', "mqtt.host: "),
    (f'[mqtt]\nhost = "{"a" * 64}"', "mqtt.host: "),
    ('[mqtt]\nroot = "/a"', "mqtt.root: a root must not start with '$' or '/', or end with '/' (got \"/a\")"),
    ('[mqtt]\nroot = "a/+"', 'mqtt.root: a topic must not contain wildcards (got "a/+")'),
    ('[mqtt]\nreply_topics = "x"', 'mqtt.reply_topics: should be a list (got "x")'),
    ('[mqtt]\nreply_topics = ["a#"]', "mqtt.reply_topics[0]: '#' must be a whole level"),
    (
        "[feedback]\ndrift_answers = 334",
        "feedback.drift_answers: requires `keep` to be at least 1002, three times as many; it is 1000 (got 334)",
    ),
    ('[mqtt.tls]\nkey_file = "k"', "mqtt.tls.key_file: requires `cert_file`"),
    ("[queue]\ndedup_window_s = nan", "queue.dedup_window_s: "),
    ('[commands]\nallow = ["ping", "reboot"]', "commands.allow[1]: should be 'ping', 'health', 'drain', "),
    (
        "[governor]\nheadroom = 1",
        "governor.headroom: unknown key (got 1); allowed: enabled, headroom_c, memory_reserve_mb",
    ),
    ('[engine]\n"" = 5', 'engine."": unknown key (got 5)'),
    ('[pool]\nname = "p"\namqp_port = 5672', "pool.amqp_port: unknown key (got 5672); allowed: name, "),
    (
        '[tasks.x]\nkind = "classify"\nlabels = ["a", "b"]\nexamples = [{ input = "i", answer = "a", note = 1 }]',
        "tasks.x.examples[0].note: unknown key (got 1); allowed: answer, input",
    ),
    (
        (
            '[tasks.x]\nkind = "classify"\nlabels = ["a", "b"]\n[tasks.x.score_map]\nscale = {}\nbias = {}\n'
            f'made_for = "{"0" * 16}"\nshift = 1'
        ),
        "tasks.x.score_map.shift: unknown key (got 1); allowed: bias, made_for, scale",
    ),
    (
        '[signals.x.values.v]\ntopic = "a"\npth = ["v"]',
        'signals.x.values.v.pth: unknown key (got ["v"]); allowed: decimal_comma, ',
    ),
    (
        '[signals.x.trigger]\nat = 1\n[signals.x.values.v]\ntopic = "a"',
        "signals.x.trigger.at: unknown key (got 1); allowed: above",
    ),
    (
        '[signals.x]\nmachine = "{2}"\n[signals.x.values.v]\ntopic = "a/+"',
        '{n} stands for the n-th wildcard of every filter, with n from 1 to 1 (got "{2}")',
    ),
    ('[tasks.x]\nkind = "generate"\nsignals = "p"', 'tasks.x.signals: requires a table in `[signals]` (got "p")'),
    ('[tasks.x]\nkind = "generate"\nsignals = []', "tasks.x.signals: should be the name of a table in `[signals]`"),
    (VALUE + USER.replace('"pump"', '["pump", "p"]'), 'tasks.x.signals: should be one of pump (got "p")'),
    ("tasks = 5", "tasks: should be a table of named values (got 5)"),
    ('[tasks."my task"]\nkind = "generate"', "tasks.my task: should match pattern"),
    ("[tasks]\nx = 5", "tasks.x: should be a table of named values (got 5)"),
    ('[tasks.x]\nkind = "x"', "tasks.x.kind: should be one of classify, estimate, extract, generate, unusual"),
    ('[tasks.x]\nkind = "generate"\nlabels = ["a", "b"]', 'tasks.x.labels: unknown key (got ["a", "b"])'),
    (f'[tasks.x]\nkind = "generate"\ntemplate = "{"x" * 65_537}"', "tasks.x.template: should have at most 65536"),
    (f'[tasks.x]\nkind = "generate"\nsystem = "{"x" * 1_000_001}"', "tasks.x.system: should have at most 1000000"),
    ("".join(f'[tasks.x{n}]\nkind = "generate"\n' for n in range(257)), "tasks: should have at most 256"),
    ('[tasks.x]\nkind = "generate"\ntemplate = "{{ temperature }}"', "the only variables are `input` and `topic`"),
    ('[tasks.x]\nkind = "generate"\npublish = "a"', "tasks.x.publish: requires `subscribe`"),
    *(
        (f'[tasks.x]\nkind = "generate"\n{key} = {value}', f"tasks.x.{key}: requires `subscribe` or `signals`")
        for key, value in (("publish_on", '"change"'), ("retain", "true"))
    ),
    *(
        (
            f'[tasks.x]\nkind = "generate"\nsubscribe = ["a"]\n{key} = 2',
            f'tasks.x.{key}: requires `publish_on = "change"`',
        )
        for key in ("after", "publish_every_s")
    ),
    (
        '[tasks.x]\nkind = "unusual"\nreply = "output"\nno_output = "usual"',
        'tasks.x.no_output: should not be one of the answers (got "usual")',
    ),
    (
        '[tasks.x]\nkind = "classify"\nlabels = ["a", "-"]\nreply = "output"\nno_output = "-"',
        "tasks.x.labels: should not contain the text of `no_output`",
    ),
    ('[tasks.x]\nkind = "generate"\nno_output = "-"', 'tasks.x.no_output: requires `reply = "output"`'),
    ('[tasks.x]\nkind = "generate"\nsubscribe = ["a/+"]\npublish = "b/{2}"', "n from 1 to 1"),
    ('[tasks.x]\nkind = "generate"\nsubscribe = ["a/+/b"]\npublish = "b/+"', "tasks.x.publish: a topic must not"),
    ('[tasks.x]\nkind = "generate"\nsubscribe = ["$share/g/a"]', "tasks.x.subscribe[0]: shared subscriptions"),
    (
        f'[tasks.x]\nkind = "classify"\nlabels = {json.dumps([f"{n}" for n in range(201)])}',
        "tasks.x.labels: should have at most 200",
    ),
    ('[tasks.x]\nkind = "classify"\nlabels = ["a"]', 'tasks.x.labels: should have at least 2 items (got ["a"])'),
    ('[tasks.x]\nkind = "classify"\nlabels = ["a", ""]', "tasks.x.labels: should be distinct and not blank"),
    ('[tasks.x]\nkind = "classify"\nlabels = ["a", "b", "a"]', "tasks.x.labels: should be distinct and not blank"),
    (
        '[tasks.t]\nkind = "generate"\nsubscribe = ["plant/#"]\npublish = "plant/{1}/answer"',
        "tasks.t.publish: its answers would be readings of tasks.t.subscribe[0]; use another topic",
    ),
    ('[tasks.x]\nkind = "classify"\nlabels = ["a", "b"]\nmin_score = 1.1', "tasks.x.min_score: should be less than"),
    ('[tasks.x]\nkind = "extract"\nschema = "config.toml"', "is not JSON"),
    ('[tasks.x]\nkind = "extract"\nschema = 5', "tasks.x.schema: should be a table, or the name of a JSON file"),
    ('[tasks.x]\nkind = "extract"\nschema = { type = "array" }', "tasks.x.schema: "),
    ('[tasks.x]\nkind = "extract"\nschema = { type = "object", "$ref" = "http://x/y" }', "tasks.x.schema: "),
    ('[tasks.generate]\nkind = "extract"\nschema = { type = "object" }', 'tasks.generate.kind: should be "generate"'),
    ("[models.default.extra]\nx = 1", "models.default.extra: unknown key"),
    *(
        (f'[tasks.a]\nkind = "generate"\nsubscribe = ["{text}"]', f"overlaps the request topics {BASE}/infer/+/request")
        for text in ("edgeai/#", f"{BASE}/infer/+/request")
    ),
    (f'[mqtt]\nroot = "{"r" * 170}"\n[pool]\nname = "pumps"', "pool.name: a request's topic with a task"),
    ('[mqtt]\nhost = "\\u001b"', "mqtt.host: should be"),
]


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_a_fault_names_key_value_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    base = CONFIG if text.startswith("[") else ""
    text = text if base else text + CONFIG
    found = fault(tmp_path, text, base=base)
    assert expected in found
    assert "got" in found
    assert found.isprintable()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a+", "ü", "x" * 65, "a\n"])
def test_names_are_letters_digits_underscore_and_dash(tmp_path: Path, name: str) -> None:
    base = CONFIG.replace('"hall1"', json.dumps(name))
    assert fault(tmp_path, "", base=base).startswith("device.site: should ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff", "is not UTF-8"),
        (b"x = ", "is not TOML"),
        (b"x = 1\nx = 2", "is not TOML"),
        (b"x = " + b"9" * 5000, "is not TOML"),
        (b"x = " + b"[" * 5000 + b"]" * 5000, "is not TOML"),
        (b"", "device: required, but missing; models: required, but missing"),
        (b"[tasks.x]", "tasks.x.kind: required, but missing; should be one of classify, estimate, extract, "),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        load_config(path)


@pytest.mark.parametrize(
    ("path", "reason"), [("none.toml", "cannot be read: No such file"), ("/dev/zero", "at most 10000000 bytes")]
)
def test_a_file_that_cannot_be_read_or_never_ends_is_reported(tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config(tmp_path / path)


def test_the_same_filter_may_serve_two_tasks(tmp_path: Path) -> None:
    more = "".join(f'[tasks.{name}]\nkind = "generate"\nsubscribe = ["plant/+/x", "hall/#"]\n' for name in ("a", "b"))
    assert set(load(tmp_path, more).tasks) == {"a", "b"}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/dev/zero", "/dev/zero: is not a file"),
        ("pipe", "pipe: is not a file"),
        ("text\\u0000", "null byte"),
        ("x" * 300, "File name too long"),
        ("list", "the name of a JSON file with an object"),
    ],
)
def test_a_schema_is_read_only_from_a_regular_file(tmp_path: Path, file: str, expected: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list").write_bytes(b"[]")
    assert expected in fault(tmp_path, f'[tasks.t]\nkind = "extract"\nschema = "{file}"\n')


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('public_key = "key.pub.pem"\n', None),
        ('public_key = "key.pem"\n', "models.default.public_key: holds a private key, which must not be on a board; "),
        ('public_keys = ["key.pub.pem", "none"]\n', "models.default.public_keys[1]: should be a file that can be read"),
        (
            'public_key = "a"\npublic_keys = ["b"]\n',
            "models.default.public_keys: should include the key of `public_key`",
        ),
        ("public_keys = []\n", "models.default.public_keys: "),
        (f"public_keys = {['a'] * 5}\n", "models.default.public_keys: "),
        ('revocations = "list"\n', "models.default.revocations: requires `public_key` or `public_keys`"),
    ],
)
def test_each_key_for_signatures_is_a_public_one(tmp_path: Path, keys: str, told: str | None) -> None:
    write_keys(tmp_path)
    try:
        found = file_faults(load(tmp_path, keys, base=CONFIG.replace('"model.gguf"', '"echo:"')))
    except ConfigError as error:
        found = error.faults
    assert [text.startswith(str(told)) for text in found] == [True] * (told is not None)


def test_a_faulty_list_of_revocations_is_a_hint_as_run_goes_on(tmp_path: Path) -> None:
    write_keys(tmp_path)
    keys = 'public_key = "key.pub.pem"\nrevocations = "list"\n'
    config = load(tmp_path, keys, base=CONFIG.replace('"model.gguf"', '"echo:"'))
    assert file_faults(config) == []
    (hint,) = (hint for hint in config_hints(config) if "revocations" in hint)
    assert hint.startswith("models.default.revocations: should be a file that can be read")
    assert "`model-switch` is refused" in hint


def test_a_blank_key_for_commands_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" \n", encoding="ascii")
    (found,) = signing_key_faults(load(tmp_path, '[commands]\nkey_file = "key"\n'))
    assert found.startswith("commands.key_file: should hold a secret, but is blank (got ")


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_pool_without_its_package_is_a_fault_that_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_installed: bool
) -> None:
    monkeypatch.setattr("edge_agent.core.extras.find_spec", lambda _: object() if is_installed else None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    faults_of_pool = [one for one in file_faults(load(tmp_path, '[pool]\nname = "pumps"\n')) if one.startswith("pool")]
    command = "pip install '.[pool]' in a copy of the repository, or 'edge-agent[pool]' from a release's wheelhouse"
    assert faults_of_pool == ([] if is_installed else [f"pool: packages are missing (pika): {command}"])
    assert not any(one.startswith("pool") for one in file_faults(load(tmp_path, "")))


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
    monkeypatch: pytest.MonkeyPatch, name: str, *, is_good: bool
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    if is_good:
        assert DeviceConfig.model_validate({"site": "hall1"}).id == name.split(".", maxsplit=1)[0]
    else:
        with pytest.raises(ValidationError, match="required: the host name"):
            DeviceConfig.model_validate({"site": "hall1"})

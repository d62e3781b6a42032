"""`edge-agent init` writes configurations that load, and asks until it can."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edge_agent import cli
from edge_agent.core import topics
from edge_agent.core.config import Config
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import WHOLE_COVERAGE
from edge_agent.loader import load_config
from edge_agent.signals.discovery import propose
from edge_agent.tools import init
from tests.helpers.client import Client
from tests.helpers.processes import EdgeAgent, Mosquitto, free_port
from tests.helpers.sparkplug import Payload
from tests.helpers.support import CONFIG

BOARD = ("--site", "hall1", "--device", "board1")
TASK = ("--task", "pump-triage", "--labels", "normal, worn,broken")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the command runs; there is no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    return tmp_path


def written(*words: str) -> Config:
    assert cli.main(["init", *words]) == cli.EXIT_OK
    return load_config(Path("config.toml"))


def test_options_become_a_configuration_that_explains_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--host", "broker", "--protocol", "3.1.1", "--subscribe", "plant/+/vibration", "--publish", "plant/{1}/t")
    config = written(*BOARD, *TASK, *more, "--ca-file", "ca.pem", "--model", "models/pump", "--system", 'Say "\x7f\\".')
    assert config.topics.base == "edgeai/v1/hall1/board1"
    assert (config.mqtt.hosts, config.mqtt.protocol) == (("broker",), "3.1.1")
    assert config.mqtt.tls is not None
    assert (config.mqtt.tls.ca_file, config.models["default"].path) == (folder / "ca.pem", folder / "models/pump")
    task = config.tasks["pump-triage"]
    assert isinstance(task, ClassifyTask)
    assert (task.labels, task.system) == (("normal", "worn", "broken"), 'Say "\x7f\\".')
    assert (task.subscribe, task.publish) == (("plant/+/vibration",), "plant/{1}/t")
    lines = Path("config.toml").read_text("utf-8").splitlines()
    assert lines[0] == "#:schema ./config.schema.json"
    assert f"# {ClassifyTask.model_fields['labels'].description}" in lines
    told = capsys.readouterr().out
    for words in ("doctor --config-only config.toml", "doctor --config", "run --config", "ask --config config.toml pu"):
        assert f"  edge-agent {words}" in told
    assert "echo:" not in told


def test_a_key_of_a_kind_needs_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenerateTask, "init_keys", {"max_tokens": 9})
    for names in ("_KIND_KEYS", "_TASK_KEYS"):
        monkeypatch.setattr(init, names, (*getattr(init, names), "max_tokens"))
    assert written(*BOARD, "--task", "t", "--kind", "generate").tasks["t"].max_tokens == 9


def test_suggestions_load_when_they_are_taken() -> None:
    written(*BOARD, *TASK)
    path = Path("config.toml")
    lines = [
        line[1:] if line.startswith("#") and line[1:2] not in (" ", ":") else line
        for line in path.read_text("utf-8").splitlines()
    ]
    path.write_text("\n".join(lines), "utf-8")
    assert load_config(path).tasks["pump-triage"].publish


def test_examples_become_turns(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("normal=runs smoothly", 'worn={"note": "squeals", "db": 71.5}', "broken=a=b")
    config = written(*BOARD, *TASK, *(word for text in given for word in ("--example", text)))
    (task,) = (task for task in config.tasks.values() if isinstance(task, ClassifyTask))
    assert [(example.input, example.answer) for example in task.examples] == [
        ("runs smoothly", "normal"),
        ({"note": "squeals", "db": 71.5}, "worn"),
        ("a=b", "broken"),
    ]
    told = capsys.readouterr().out
    assert "pump-triage 'runs smoothly'" in told
    assert "Small models" not in told
    assert "readings of numbers" not in told
    written(*BOARD, *TASK, "--force")
    assert "add them to the file as [[tasks.pump-triage.examples]]" in capsys.readouterr().out


def test_readings_of_numbers_are_sent_to_training(capsys: pytest.CaptureFixture[str]) -> None:
    written(*BOARD, *TASK, "--example", 'worn={"machine": "M7", "vibration_mm_s": 7.9, "temperature_c": 81.5}')
    assert "`edge-convert train`" in capsys.readouterr().out
    written(*BOARD, *TASK, "--example", "worn=7.9", "--force")
    assert "`edge-convert train`" in capsys.readouterr().out


def test_files_are_named_from_the_folder_where_the_command_runs(folder: Path) -> None:
    (folder / "board1").mkdir()
    files = ("--model", "models/pump", "--ca-file", str(folder / "ca.pem"), "--password-file", "password")
    assert cli.main(["init", *BOARD, *TASK, "--username", "b", *files, "--out", "board1/config.toml"]) == cli.EXIT_OK
    config = load_config(Path("board1/config.toml"))
    assert config.models["default"].path.resolve() == folder / "models/pump"
    assert config.mqtt.tls is not None
    assert config.mqtt.tls.ca_file == folder / "ca.pem"
    assert config.mqtt.password_file is not None
    assert config.mqtt.password_file.resolve() == folder / "password"


def test_without_a_model_the_test_model_answers_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(*BOARD, "--task", "generate")
    assert (str(config.models["default"].path), config.state_dir) == ("echo:", folder / "state")
    assert "`echo:` is a test model without weights" in capsys.readouterr().out


def test_without_a_schema_there_is_one_to_edit() -> None:
    task = written(*BOARD, "--task", "t", "--kind", "extract").tasks["t"]
    assert isinstance(task, ExtractTask)
    assert set(task.output_schema["properties"]) == {"fault", "stop"}


def test_the_service_keeps_its_own_state_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.tools.init.DEFAULT_PATH", folder / "config.toml")
    assert written(*BOARD, *TASK).state_dir == Path("/var/lib/edge-agent/state")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ((), "--site: required, but missing"),
        (BOARD, "--task: required, but missing"),
        (
            (*BOARD, "--task", "t"),
            "--kind: required, but missing (classify, estimate, extract, generate, unusual); --labels",
        ),
        ((*BOARD, "--task", "t", "--kind", "classify"), "--labels: required, but missing"),
        ((*BOARD, "--task", "t", "--labels", "one"), '--labels: should have at least 2 items (got ["one"])'),
        ((*BOARD, "--task", "t", "--schema", "none.json"), "--schema: should be a table, or the name of a JSON file"),
        ((*BOARD, "--task", "generate", "--labels", "a,b"), "--labels: unknown key"),
        ((*BOARD, "--task", "a/b", "--labels", "a,b"), "--task: should match pattern"),
        ((*BOARD, *TASK, "--port", "99999"), "--port: should be less than or equal to 65535 (got 99999)"),
        ((*BOARD, *TASK, "--publish", "a"), "--publish: requires `subscribe`"),
        (("--site", "hall 1"), "--site: should match pattern"),
        ((*BOARD, *TASK, "--model", "\udcff"), "options should be UTF-8"),
        ((*BOARD, *TASK, "--example", "calm=a hum"), "--example[0].answer: should be one of normal, worn, broken"),
    ],
)
def test_without_a_terminal_the_option_is_named(
    folder: Path, edge_agent: EdgeAgent, words: tuple[str, ...], fault: str
) -> None:
    done = edge_agent("init", *words)
    assert done.returncode == cli.EXIT_USAGE
    assert done.stderr.startswith(f"edge-agent: {fault}")
    assert not list(folder.iterdir())


def test_a_file_is_replaced_only_by_force(edge_agent: EdgeAgent) -> None:
    path = Path("config.toml")
    path.write_text(CONFIG, "utf-8")
    done = edge_agent("init", *BOARD, *TASK)
    assert (done.returncode, "config.toml exists; --force replaces it" in done.stderr) == (cli.EXIT_FAILED, True)
    assert path.read_text("utf-8") == CONFIG
    assert written(*BOARD, *TASK, "--force").tasks


def test_a_path_that_cannot_be_a_file_is_named(edge_agent: EdgeAgent) -> None:
    done = edge_agent("init", "--out", "x" * 300, *BOARD, *TASK)
    assert (done.returncode, done.stderr) == (cli.EXIT_FAILED, f"edge-agent: {'x' * 300}: File name too long\n")


def answering(monkeypatch: pytest.MonkeyPatch, answers: Iterator[str]) -> list[str]:
    """Sits at the terminal; returns the prompts that it will have seen."""
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt.partition(" [")[0].rstrip(": "))
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    return prompts


def test_a_terminal_is_asked_until_the_loader_is_content(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = ["hall 1", "hall1", "", "", ""]
    examples = ["runs smoothly", ""]
    answers = [*site, "pump-triage", "clasify", "classify", "normal", "normal,worn", "", *examples, "a/#/b", "a/+"]
    prompts = answering(monkeypatch, iter(answers))
    config = written("--device", "board1")
    assert prompts == [
        *("site", "site", "host", "model", "task", "task", "kind", "kind", "labels", "labels", "system"),
        *("example of normal", "example of worn", "subscribe", "subscribe"),
    ]
    assert (config.device.site, config.mqtt.hosts) == ("hall1", ("localhost",))
    assert config.tasks["pump-triage"].subscribe == ("a/+",)
    assert [example.answer for example in config.tasks["pump-triage"].examples] == ["normal"]
    told = capsys.readouterr().out
    for fault in ("site: should match", "task: required", "kind: should be one of", "labels: should have at least"):
        assert f"\n--{fault}" in told
    assert "'#' must be a whole level" in told


def test_a_closed_terminal_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, edge_agent: EdgeAgent) -> None:
    answering(monkeypatch, iter(["hall1"]))
    done = edge_agent("init")
    assert (done.returncode, "nothing was written" in done.stderr) == (cli.EXIT_FAILED, True)
    assert not list(folder.iterdir())


@contextmanager
def publishing(port: int, *messages: tuple[str, str]) -> Iterator[None]:
    """A plant that publishes the same messages again and again."""
    stops = threading.Event()

    def publish() -> None:
        while not stops.wait(0.05):
            for topic, payload in messages:
                client.publish(topic, payload, qos=0)

    with closing(Client(port, "5")) as client:
        thread = threading.Thread(target=publish)
        thread.start()
        yield
        stops.set()
        thread.join()


@contextmanager
def wakes_sparkplug(port: int) -> Iterator[None]:
    """A Sparkplug node whose data have no names until somebody asks for its birth."""

    def payload(**metric: object) -> bytes:
        return bytes(Payload(metrics=[{"alias": 1, "float_value": 7.5, **metric}]).SerializeToString())

    def answer() -> None:
        asked.wait("spBv1.0/P/NCMD/n")
        asked.publish("spBv1.0/P/NBIRTH/n", payload(name="Vib"), qos=0)

    with closing(Client(port, "5")) as asked:
        asked.subscribe("spBv1.0/P/NCMD/n")
        asked.publish("spBv1.0/P/NDATA/n", payload(), retain=True)
        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def test_in_doubt_both_proposals_are_printed_and_a_terminal_asks_for_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = [(f"works/{line}/{part}", b'{"temp":61}') for line in ("a", "b") for part in ("motor", "pump")]
    proposal = propose(Message(topic=topic, payload=text, qos=0, packet_id=0, received_at=0.0) for topic, text in plant)
    assert init.shown_proposal(proposal) is proposal
    out = capsys.readouterr().out
    assert 'Proposal 1: machine = "{1}"\nmachines (2): a, b' in out
    assert 'Proposal 2: machine = "{1}/{2}"\nmachines (4): a/motor' in out
    assert "warning: the topics do not tell which level names the machine" in out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answering(monkeypatch, iter(["2"]))
    assert init.shown_proposal(proposal) is proposal.other


def test_a_table_whose_values_are_all_optional_comes_with_a_warning() -> None:
    plant = [(f"works/{machine}", b"1") for machine in ("a/vib", "b/vib", "b/temp", "c/temp", "c/hz")]
    proposal = propose(Message(topic=topic, payload=text, qos=0, packet_id=0, received_at=0.0) for topic, text in plant)
    lines = [*init.found_lines(proposal)]
    assert lines[-1].startswith("warning: no value is of all machines")
    assert ["1 (c)" in line for line in lines[2:5]] == [True, False, False]


def test_two_kinds_of_machines_are_told_apart_with_a_filter_for_each() -> None:
    kinds = {"comp": ("current", "oil"), "pump": ("flow", "vib")}
    plant = [f"hall/{kind}-{number}/{name}" for kind, names in kinds.items() for number in (1, 2) for name in names]
    heard = [Message(topic=topic, payload=b"1", qos=0, packet_id=0, received_at=0.0) for topic in plant]
    lines = [*init.found_lines(propose(heard))]
    assert lines[-3:] == [
        "warning: these look like 2 kinds of machines; each kind needs a table and a task of its own:",
        "  comp-1, comp-2: current, oil; --discover hall/+/current,hall/+/oil finds only these",
        "  pump-1, pump-2: flow, vib; --discover hall/+/flow,hall/+/vib finds only these",
    ]
    single = [Message(topic=name, payload=b"1", qos=0, packet_id=0, received_at=0.0) for name in ("temp", "vib")]
    assert [*init.found_lines(propose(single))][-1].startswith("warning: no value is of all machines")
    comps = propose(each for each in heard if each.topic.endswith(("current", "oil")))
    assert not [line for line in init.found_lines(comps) if "warning" in line]
    payloads = {"comp": b'{"oil":1}', "pump": b'{"flow":1}'}
    shared = (
        Message(topic=f"hall/{kind}-{number}/data", payload=payload, qos=0, packet_id=0, received_at=0.0)
        for kind, payload in payloads.items()
        for number in (1, 2)
    )
    assert [*init.found_lines(propose(shared))][-1] == (
        "  comp-1, comp-2: oil; --discover hall/comp-1/data,hall/comp-2/data finds only these"
    )


def test_the_filters_of_a_kind_find_all_topics_of_its_machines() -> None:
    names = {"bell": [f"value_{number}" for number in range(9)], "winch": ["load"]}
    values = [f"hall/{kind}-{number}/{name}" for kind in names for number in (1, 2) for name in names[kind]]
    counted = [(f"hall/{machine}/hits", str(at).encode()) for machine in ("bell-1", "bell-2") for at in range(9)]
    texts = [("hall/bell-1/lock", b"OK"), *((f"hall/{kind}-1/log", b"-") for kind in names), ("hall/bell-1/raw", b"{")]
    plant = [*((topic, payload) for topic in values for payload in (b"2", b"1")), *counted, *texts]
    heard = [Message(topic=topic, payload=text, qos=0, packet_id=0, received_at=0.0) for topic, text in plant]
    *_, winches, bells = init.found_lines(propose(heard))
    assert winches.endswith("; --discover hall/+/load,hall/winch-1/log finds only these")
    filters = bells.removesuffix(" finds only these").split("--discover ")[1].split(",")
    found = [message for message in heard if any(topics.matches(each, message.topic) for each in filters)]
    assert found == [message for message in heard if "/bell-" in message.topic]
    again = propose(found)
    assert (again.machines, again.values["hits"].only_rises, len(again.values)) == (["bell-1", "bell-2"], True, 10)


def test_what_is_missing_is_said_before_listening(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--task", "t"), ("--task", "t", "--kind", "classify")):
        assert cli.main(["init", *BOARD, *words, "--port", "1", "--discover", "#"]) == cli.EXIT_USAGE
        assert "required, but missing" in capsys.readouterr().err


def test_listening_proposes_the_values_of_a_plant(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", *BOARD, *TASK, "--discover", "plant/#,a/#/b"]) == cli.EXIT_USAGE
    assert '(got "a/#/b")' in capsys.readouterr().err
    port = free_port()
    plant = [(f"plant/p{number}/{name}", "7.5") for number in (1, 2) for name in ("vib", "temp")]
    with (
        Mosquitto(tmp_path_factory.mktemp("broker"), port),
        publishing(port, *plant, ("edgeai/v1/x", "3"), ("fac/x", "9:15")),
    ):
        words = ("--host", "127.0.0.1", "--port", str(port), "--discover", "plant/#, edgeai/#", "--listen", "1")
        whole = written(*BOARD, *TASK, *words)
        assert whole.tasks["pump-triage"].signals == "pump-triage"
        assert set(whole.signals["pump-triage"].values) == {"vib", "temp"}
        assert whole.signals["pump-triage"].min_coverage == 0.5
        out = capsys.readouterr().out
        assert "machines (2): p1, p2" in out
        assert """pump-triage '{"temp": {"last": 7.5}}'""" in out
        assert "Answers to readings come on edgeai/v1/hall1/board1/infer/pump-triage/response." in out
        assert (
            cli.main(["init", *BOARD, *TASK, *words[:-3], "nobody/#", "--listen", "0.3", "--force"]) == cli.EXIT_USAGE
        )
        assert 'no message on "nobody/#" in 0.3 s' in capsys.readouterr().err
        assert cli.main(["init", *BOARD, *TASK, *words[:-3], "fac/#", "--listen", "1", "--force"]) == cli.EXIT_USAGE
        assert "--discover: no values in " in capsys.readouterr().err
        with wakes_sparkplug(port):
            mixed = written(*BOARD, *TASK, *words[:-3], "plant/#, spBv1.0/#", "--listen", "1.5", "--rebirth", "--force")
        assert mixed.tasks["pump-triage"].signals == ("pump-triage", "P")
        assert set(mixed.signals["P"].values) == {"vib"}
        assert "warning: not in both tables: temp; give" in capsys.readouterr().out
        odd = written(*BOARD, "--task", "odd", "--kind", "unusual", *words, "--force")
        assert odd.signals["odd"].min_coverage == WHOLE_COVERAGE
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        answering(monkeypatch, iter(["vib", "", "", ""]))
        chosen = written(*BOARD, *TASK, *words, "--system", "x", "--force")
        assert set(chosen.signals["pump-triage"].values) == {"temp"}
    assert cli.main(["init", *BOARD, *TASK, *words, "--force"]) == cli.EXIT_USAGE
    assert "cannot be reached" in capsys.readouterr().err

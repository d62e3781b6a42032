"""`edge-agent init`: writes a first configuration, from options and from answers on a terminal."""

import argparse
import copy
import json
import os
import secrets
import shlex
import sys
import textwrap
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edge_agent.core import config, topics
from edge_agent.core.config_file import ConfigError
from edge_agent.core.kinds.registry import BUILT_IN_TASK, KINDS
from edge_agent.core.kinds.task import DEFAULT_TEMPLATE, TaskBase
from edge_agent.core.messages import Message
from edge_agent.core.pipe import ECHO_MODEL, is_echo
from edge_agent.core.signal_tables import WHOLE_COVERAGE, SignalsTable
from edge_agent.core.strict_json import NotJsonError, number_of
from edge_agent.core.terminal import aligned, fail
from edge_agent.core.wording import cut, field_name, first_fault, printable, shown
from edge_agent.loader import DEFAULT_PATH, check_document
from edge_agent.signals.discovery import propose
from edge_agent.signals.proposal import Proposal, listed
from edge_agent.signals.sparkplug_source import address_of, rebirth_request
from edge_agent.tools.ask import parse_input
from edge_agent.tools.bus import OptionError, mqtt_table, with_flags
from edge_agent.tools.client import Client
from edge_agent.tools.toml import toml

_SCHEMA_FILE = "config.schema.json"
_HEAD = f"""\
#:schema ./{_SCHEMA_FILE}
# `edge-agent schema config > {_SCHEMA_FILE}` lets an editor complete and explain all keys.
# A line such as `#key = value` is a suggestion: remove the # to use it.
"""
_SUGGESTED_MQTT = {"username": "board1", "password_file": "mqtt-password"}
_SUGGESTED_TASK = {
    "template": DEFAULT_TEMPLATE,
    "deadline_ms": 10_000,
    "subscribe": ["plant/+/vibration"],
    "publish": "plant/{1}/answer",
}
# Options, and the keys that they set; those of a task have the same names.
_KEYS = {"site": "device.site", "device": "device.id", "host": "mqtt.host", "model": "models.default.path"}
_KIND_KEYS = tuple(key for kind in KINDS.values() for key in kind.init_keys)
_TASK_KEYS = ("kind", "system", *_KIND_KEYS, "subscribe", "publish")
_LISTS = ("labels", "subscribe")
_SAMPLE_EXAMPLE = "a remark or a reading with this answer"
_NUMBERS = """\
These are readings of numbers, of which a model understands little unless it was trained for them. `edge-convert train`
makes such a model from a few hundred rows: docs/training.md."""
_CONNECT_S = 5.0
_FILE_OPTIONS = ("model", "schema", "password_file", "ca_file", "cert_file", "key_file")


def init(options: argparse.Namespace) -> int:
    """Returns the exit code. Raises OptionError; nothing is written then."""
    out: Path = options.out
    _make_relative_to(out.parent, options)
    form = _Form(options)
    try:
        if out.exists() and not options.force:
            return fail(f"{out} exists; --force replaces it")
        form.fill()
        out.write_bytes(form.text().encode())
    except EOFError:
        return fail("input ended before all questions were answered; nothing was written")
    except UnicodeEncodeError:
        raise OptionError("options should be UTF-8") from None
    except OSError as error:
        return fail(f"{out}: {error.strerror}")
    form.print_next()
    return 0


def _make_relative_to(folder: Path, options: argparse.Namespace) -> None:
    """A shell completes paths from the folder where the command runs, but a configuration reads them from its own."""
    for name in _FILE_OPTIONS:
        path = getattr(options, name)
        if path and not is_echo(path) and not path.startswith(("/", "~")):
            setattr(options, name, os.path.relpath(path, folder))


class _Form:
    """Values by option. What no option gives is asked on a terminal; without one, it has its default."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._proposal: Proposal | None = None
        # These are not asked in every case.
        self._values: dict[str, Any] = {key: getattr(options, key, None) for key in (*_KIND_KEYS, "publish")}
        self._examples = list[dict[str, Any]]()

    def fill(self) -> None:
        """Raises OptionError, EOFError."""
        if sys.stdin.isatty():
            print("Enter accepts the value in brackets. Ctrl-C quits without writing anything.")
        self._ask("site", _about(config.DeviceConfig, "site"))
        self._ask("device", _about(config.DeviceConfig, "id"), _host_name())
        self._ask("host", _about(config.MqttConfig, "host"), "localhost")
        is_asking, is_discovering = sys.stdin.isatty(), self._options.discover is not None
        if is_asking and is_discovering:
            self._discover()
        self._ask("model", _about(config.ModelConfig, "path"), ECHO_MODEL)
        self._ask("task", f"The name of a task of yours, such as pump-triage, or `{BUILT_IN_TASK}`.")
        self._fill_task()
        # Without a terminal, a missing option is a fault, which is known before listening.
        if is_discovering and not is_asking:
            self._discover()
        if faults := self._faults():
            raise OptionError("; ".join(faults))

    def _fill_task(self) -> None:
        values = self._values
        implied = next((name for name, kind in KINDS.items() if any(values[key] for key in kind.init_keys)), None)
        if values["task"] == BUILT_IN_TASK:
            implied = "generate"
        kinds = (f"{kind}: {(table.__doc__ or '').splitlines()[0]}" for kind, table in KINDS.items())
        kind = self._options.kind or implied
        if kind is None and not sys.stdin.isatty():
            raise OptionError(f"--kind: required, but missing ({', '.join(KINDS)}); --labels or --schema imply it")
        self._ask("kind", "\n".join(kinds), given=kind)
        table = KINDS[values["kind"]]
        for key, sample in table.init_keys.items():
            about = _about(table, key)
            self._ask(key, f"{about} Give the file here, or leave empty for a sample." if sample else about, sample)
        lists = {key: ", ".join(values[key]) for key in table.init_keys if isinstance(values[key], list)}
        self._ask("system", _about(table, "system"), table.init_system and table.init_system.format(**lists))
        self._fill_examples(values.get("labels") or ())
        if self._options.discover is None:
            self._ask("subscribe", f"{_about(table, 'subscribe')} Leave empty for none.")

    def _fill_examples(self, labels: Sequence[str]) -> None:
        """Takes the examples of the options, or asks for one of each label. Raises OptionError, EOFError."""
        for given in self._options.example or ():
            label = next((label for label in labels if given.startswith(f"{label}=")), given.partition("=")[0])
            self._examples.append({"input": _parsed(given.removeprefix(label)[1:]), "answer": label})
        if faults := self._faults("example"):
            raise OptionError("; ".join(faults))
        if self._examples or not labels or self._proposal is not None or not sys.stdin.isatty():
            return
        about = "Small models need an example of each label: a text, or a reading as JSON. Leave empty for none."
        print("", textwrap.fill(about, 80), sep="\n")
        for label in labels:
            while text := input(f"example of {printable(label)}: ").strip():
                self._examples.append({"input": _parsed(text), "answer": label})
                if not (faults := self._faults("example")):
                    break
                self._examples.pop()
                print(*map(printable, faults), sep="\n")

    @property
    def _reads_numbers(self) -> bool:
        inputs = [example["input"] for example in self._examples]
        return self._proposal is not None or (bool(inputs) and all(map(_is_numeric, inputs)))

    def _discover(self) -> None:
        """Listens to the plant, and proposes a [signals] table. Raises OptionError."""
        wanted, seconds = self._options.discover, self._options.listen
        filters = _comma_separated(wanted)
        mqtt = self._document()["mqtt"]
        try:
            link = config.MqttConfig.model_validate(mqtt, context={"folder": self._options.out.absolute().parent})
            for text in filters:
                if fault := topics.filter_fault(text):
                    raise OptionError(f"--discover: {fault} (got {shown(text)})")
        except ValidationError as error:
            raise OptionError(first_fault(error, "mqtt")) from error
        print(f"listening to {printable(wanted)} for {seconds:g} s …", file=sys.stderr, flush=True)
        with Client(f"init-{secrets.token_hex(4)}", link, filters) as client:
            if not client.connect(_CONNECT_S):
                raise OptionError(f"--discover: {link.brokers} cannot be reached: {client.reason}")
            heard = client.messages(seconds)
            messages = [*(_asking_for_births(client, heard) if self._options.rebirth else heard)]
        proposal = propose(message for message in messages if not message.topic.startswith(f"{link.root}/"))
        if not messages:
            raise OptionError(f"--discover: no message on {shown(wanted)} in {seconds:g} s")
        if not proposal.values:
            fault = f"--discover: no values in {len(messages)} messages on {shown(wanted)}"
            raise OptionError("; left out: ".join((fault, *proposal.left_out)))
        proposal = shown_proposal(proposal)
        if sys.stdin.isatty():
            left_out = _comma_separated(input("\nValues to leave out, separated by commas (Enter keeps all): "))
            first, *more = (_without(each, left_out) for each in (proposal, *proposal.more))
            proposal = replace(first, more=tuple(more))
        self._proposal = proposal

    def _ask(self, option: str, about: str, default: Any = None, *, given: str | None = None) -> None:
        """Sets the option's value to what was given here or on the command line, else to the answer."""
        parse = _comma_separated if option in _LISTS else str
        given = given or getattr(self._options, option, None)
        self._values[option] = default if given is None else parse(given)
        if given is not None or not sys.stdin.isatty():
            if faults := self._faults(option):
                raise OptionError("; ".join(faults))
            return
        about += " Separate them with commas." if option in _LISTS else ""
        print("", *(textwrap.fill(line, 80) for line in about.splitlines()), sep="\n")
        prompt = f"{option} [{default}]: " if isinstance(default, str) else f"{option}: "
        while True:
            answer = input(prompt).strip()
            self._values[option] = parse(answer) if answer else default
            faults = self._faults(option)
            if not faults:
                return
            print(*map(printable, faults), sep="\n")

    def _faults(self, option: str | None = None) -> list[str]:
        """What the loader says of an option's value, or of all, with the option instead of the key."""
        name = self._values.get("task", "")
        if name is None:
            return ["--task: required, but missing"]
        keys = {**_KEYS, "task": field_name(("tasks", name))}
        keys |= {key: field_name(("tasks", name, key)) for key in _TASK_KEYS}
        keys["example"] = field_name(("tasks", name, "examples"))
        try:
            check_document(copy.deepcopy(self._document()), self._options.out)
        except ConfigError as error:
            faults = [_with_option(fault, keys) for fault in error.faults]
            return [fault for fault in faults if option is None or fault.startswith((f"--{option}:", f"--{option}["))]
        return []

    def _document(self) -> dict[str, Any]:
        values = {option: value for option, value in self._values.items() if value is not None}

        def table(**options: str) -> dict[str, Any]:
            return {key: values[option] for key, option in options.items() if option in values}

        document = {
            "device": table(site="site", id="device"),
            "mqtt": {"host": "localhost", **mqtt_table(self._options), **table(host="host")},
            "models": {"default": table(path="model")},
            "tasks": {values["task"]: table(**{key: key for key in _TASK_KEYS})} if "task" in values else {},
        }
        if self._examples:
            document["tasks"][values["task"]]["examples"] = self._examples
        if self._proposal is not None:
            tables = document["signals"] = self._proposal.tables(values.get("task", "machines"))
            kind = KINDS.get(values.get("kind", ""))
            for each in tables.values() if kind is not None and kind.has_own_model else ():
                each["min_coverage"] = WHOLE_COVERAGE
            for task in document["tasks"].values():
                task["signals"] = [*tables] if self._proposal.more else next(iter(tables))
        # The service has its own folder.
        is_service = self._options.out.absolute().parent == DEFAULT_PATH.parent
        return document if is_service else {"state_dir": "state", **document}

    def text(self) -> str:
        document = self._document()
        mqtt = document["mqtt"]
        ((name, task),) = document["tasks"].items()
        tls, examples = mqtt.pop("tls", None), task.pop("examples", ())
        top = {key: value for key, value in document.items() if not isinstance(value, dict)}
        suggested = _SUGGESTED_TASK
        if self._proposal is not None:
            suggested = {"deadline_ms": 10_000, "publish": "plant/{machine}/answer"}
        lines = [
            _HEAD,
            *_keys_of(config.Config, top),
            *_table("device", config.DeviceConfig, document["device"]),
            *_table("mqtt", config.MqttConfig, mqtt, _SUGGESTED_MQTT),
            *(_table("mqtt.tls", config.TlsConfig, tls) if tls is not None else ()),
            *_table("models.default", config.ModelConfig, document["models"]["default"]),
            *_table(f"tasks.{name}", KINDS[task["kind"]], task, suggested),
            *_examples_lines(name, examples, () if self._proposal is not None else task.get("labels", ())),
            *_signals_lines(document.get("signals", {})),
        ]
        return "\n".join(lines) + "\n"

    def print_next(self) -> None:
        """What to do with the file."""
        file, task = shlex.quote(str(self._options.out)), self._values["task"]
        sample = "hello" if KINDS[self._values["kind"]].is_text else '{"temperature_c": 81.5}'
        if self._examples:
            first = self._examples[0]["input"]
            sample = first if isinstance(first, str) else json.dumps(first, ensure_ascii=False)
        if self._proposal is not None:
            name, value = next(iter(self._proposal.values.items()))
            sample = json.dumps({name: {"last": number_of(value.example) or 0.0}})
        print(printable(f"{self._options.out} written"))
        if is_echo(self._values["model"]):
            print(f"`{ECHO_MODEL}` is a test model without weights: its answers mean nothing.")
        if self._reads_numbers:
            print(_NUMBERS)
            if self._proposal is not None:
                print("docs/signals.md says how this board records the rows: From the plant to a trained model.")
        elif self._values.get("labels") and not self._examples:
            print(f"Small models need an example of each label: add them to the file as [[tasks.{task}.examples]].")
        commands = [
            (f"edge-agent doctor --config-only {file}", "lists faults, and files that do not exist yet"),
            (f"edge-agent doctor --config {file}", "tries the board, the broker and the model"),
            (f"edge-agent run --config {file}", "serves until Ctrl-C"),
            (f"edge-agent ask --config {file} {task} {shlex.quote(sample)}", "in another terminal"),
        ]
        print("Next:", *(f"  {printable(line)}" for line in aligned(commands, left=2)), sep="\n")
        if self._proposal is not None or self._values["subscribe"]:
            root = self._document()["mqtt"].get("root", config.MqttConfig().root)
            own = topics.Topics(root, self._values["site"], self._values["device"])
            print(printable(f"Answers to readings come on {self._values['publish'] or own.response(task)}."))


def _asking_for_births(client: Client, messages: Iterable[Message]) -> Iterator[Message]:
    """Passes the messages on, and asks each Sparkplug node whose data come without its birth for it, once."""
    known = set[tuple[str, str]]()
    for message in messages:
        yield message
        if (address := address_of(message.topic)) is not None:
            group, kind, node, _ = address
            if kind in ("NDATA", "DDATA") and (group, node) not in known:
                client.link.publish(rebirth_request(group, node, time.time()))
            if kind != "NDEATH":
                known.add((group, node))


def _without(proposal: Proposal, names: Collection[str]) -> Proposal:
    values = {name: value for name, value in proposal.values.items() if name not in names}
    return replace(proposal, values=values or proposal.values)


def shown_proposal(proposal: Proposal) -> Proposal:
    """Prints the proposal, and another if the topics allow two; returns the one to take."""
    proposals = [proposal, *([proposal.other] if proposal.other is not None else ())]
    for number, each in enumerate(proposals, start=1):
        if len(proposals) > 1:
            print(f"Proposal {number}: machine = {shown(each.keys.get('machine', '{1}'))}")
        for line in found_lines(each):
            print(printable(line))
    if len(proposals) > 1 and sys.stdin.isatty():
        proposal = proposals[input("\nWhich proposal has your machines, 1 or 2? [1]: ").strip() == "2"]
    elif len(proposals) > 1:
        print(
            "warning: the topics do not tell which level names the machine; compare the machines: proposal 1 is taken"
        )
    return proposal


def found_lines(proposal: Proposal) -> Iterator[str]:
    """The machines and values that were heard, as one table for each of the configuration."""
    yield f"machines ({len(proposal.machines)}): {listed(proposal.machines)}"
    rows = [("value", "from", "path", "example", "machines", "messages")]
    for name, value in proposal.values.items():
        path = toml(value.path) if value.path else ""
        where = value.metric or value.topic
        machines = str(len(value.machines))
        if len(value.machines) == 1 < len(proposal.machines):
            machines += f" ({cut(min(value.machines))})"
        rows.append((name, where, path, cut(value.example, 20), machines, str(value.messages)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from (f"left out: {text}" for text in proposal.left_out)
    if rising := [name for name, value in proposal.values.items() if value.only_rises]:
        yield (
            f"warning: {listed(rising)} only rose while listening: leave out a counter or a clock, because training "
            'has never seen its later numbers, or keep the slope of a counter alone (`features = ["slope"]`)'
        )
    kinds = proposal.kinds
    # Topics of one level, such as `temp` and `pressure`, look like machines that have only one value each.
    if len(kinds) > 1 and any(len(kind) > 1 or len(values) > 1 for kind, values in kinds):
        yield f"warning: these look like {len(kinds)} kinds of machines; each kind needs a table and a task of its own:"
        for kind, values in kinds:
            filters = shlex.quote(",".join(proposal.filters_of(kind)))
            only = f"; --discover {filters} finds only these" if proposal.topics else ""
            yield f"  {listed(kind)}: {listed([*values])}{only}"
    elif all(value.is_optional for value in proposal.values.values()):
        yield "warning: no value is of all machines, so all are `optional`: is each of these really a machine?"
    for other in proposal.more:
        yield "and a table of its own, because these machines publish in another way:"
        yield from found_lines(other)
        if missing := sorted(proposal.values.keys() ^ other.values.keys()):
            yield f"warning: not in both tables: {', '.join(missing)}; give the same values the same names in the file"


def _signals_lines(tables: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    for name, table in tables.items():
        own = {key: value for key, value in table.items() if key != "values"}
        suggested = {"window_s": 600, "every_s": 60, "record_every_s": 120}
        if "source" in own:
            suggested["rebirth"] = True
        yield from _table(f"signals.{name}", SignalsTable, own, suggested)
        yield f"\n[signals.{name}.values]"
        yield from (f"{value} = {toml(keys)}" for value, keys in table["values"].items())


def _examples_lines(task: str, examples: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Iterator[str]:
    mark = "" if examples else "#"
    shown = examples or [{"input": _SAMPLE_EXAMPLE, "answer": label} for label in labels]
    for number, example in enumerate(shown):
        yield ""
        if not number:
            yield f"# {_about(TaskBase, 'examples')}"
        yield f"{mark}[[tasks.{task}.examples]]"
        yield from (f"{mark}{key} = {toml(value)}" for key, value in example.items())


def _parsed(text: str) -> Any:
    """An object or array if the text is one; else the text itself."""
    try:
        return parse_input(text)
    except NotJsonError:
        return text


def _is_numeric(value: Any) -> bool:
    """Whether this input is a number, or most of its values are numbers."""
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return 2 * sum(number_of(one) is not None for one in values) > len(values)


def _comma_separated(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _host_name() -> str | None:
    """The host name, if it identifies the board."""
    try:
        return config.DeviceConfig(site="-").id
    except ValidationError:
        return None


def _with_option(fault: str, keys: Mapping[str, str]) -> str:
    for option, key in keys.items():
        if fault.startswith((f"{key}:", f"{key}[")):
            return f"--{option}{fault.removeprefix(key)}"
    return with_flags(fault)


def _about(model: type[BaseModel], key: str) -> str:
    """What a key of a table means."""
    (text,) = (field.description for name, field in model.model_fields.items() if key in (name, field.alias))
    return " ".join((text or "").split())


def _table(
    header: str, model: type[BaseModel], table: Mapping[str, Any], suggested: Mapping[str, Any] | None = None
) -> Iterator[str]:
    yield f"\n[{header}]"
    yield from _keys_of(model, table)
    more = {key: value for key, value in (suggested or {}).items() if key not in table}
    yield from _keys_of(model, more, mark="#")


def _keys_of(model: type[BaseModel], table: Mapping[str, Any], mark: str = "") -> Iterator[str]:
    for key, value in table.items():
        yield from textwrap.wrap(_about(model, key), 100, initial_indent="# ", subsequent_indent="# ")
        yield f"{mark}{key} = {toml(value)}"

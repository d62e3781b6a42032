"""Commands and exit codes: what each command does, and in `parser` its options.

The text of a function is the command's `--help`, and stands in docs/cli.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from edge_agent.core.config import OPERATIONS
from edge_agent.core.config_file import ConfigError
from edge_agent.core.extras import missing_extra
from edge_agent.core.kinds.registry import KINDS
from edge_agent.core.log_limit import BoundedHandler
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.topics import NAME_PATTERN
from edge_agent.core.version import ShowVersion
from edge_agent.core.wording import printable, printable_json, shown
from edge_agent.loader import DEFAULT_PATH, config_hints, file_faults, load_config
from edge_agent.tools.bus import NoAnswerError, OptionError, add_bus_options, bus_of, refuse_without_host
from edge_agent.tools.output import fail
from edge_agent.tools.schema import SCHEMAS

# Modules of single commands are imported where they run: the daemon and check-config pay for none of them.
# ruff: noqa: PLC0415

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_OTHER_STATUS = 2
EXIT_USAGE = 64
EXIT_CONFIG = 78


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def _run(options: argparse.Namespace) -> int:
    """Serves requests until it is stopped.

    SIGTERM: it refuses new requests, finishes what runs and ends. SIGHUP: it reloads the configuration.
    Exit codes: 0 stopped, 1 failed, 64 usage, 78 bad configuration, also a model path where no model is.
    """
    # Until the agent handles signals itself (its model is being checked), a stop ends it and a reload is ignored.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(EXIT_OK))
    from edge_agent.agent import Agent
    from edge_agent.core.environment import keep_heap_small
    from edge_agent.core.model import ModelError
    from edge_agent.core.pipe import is_echo
    from edge_agent.core.state_lock import StateInUseError, locked
    from edge_agent.models.record import in_force, open_in_force

    path: Path = options.config
    keep_heap_small()
    config = load_config(path, file_faults)
    if not is_echo(in_force(config)) and (missing := missing_extra("engine")):
        return fail(missing)
    # journald and docker add the time themselves.
    handlers = [BoundedHandler(sys.stderr)]
    logging.basicConfig(level=config.log.level, format="%(levelname)s %(name)s: %(message)s", handlers=handlers)
    try:
        with locked(config.state_dir):
            return Agent(config, path, open_in_force(config)).run()
    except (StateInUseError, ModelError) as error:
        return fail(str(error))


def _check_config(options: argparse.Namespace) -> int:
    """Lists every fault of a configuration file.

    Hints are what is likely not meant, and files that `run` needs and that are not there yet.
    Exit codes: 0 good, 64 usage, 78 bad configuration.
    """
    path: Path = options.file or options.config
    config = load_config(path)
    needed = [f"{fault}; `run` needs it" for fault in file_faults(config)]
    for hint in (*config_hints(config), *needed):
        print(printable(f"{path}: hint: {hint}"), file=sys.stderr)
    print(printable(f"{path}: good"))
    return EXIT_OK


def _init(options: argparse.Namespace) -> int:
    """Writes a first configuration.

    What no option gives is asked on a terminal; elsewhere it has its default, or is named as missing.
    Exit codes: 0 written, 1 not written, 64 usage: an option is missing or wrong.
    """
    from edge_agent.tools.init import init

    return init(options)


def _schema(options: argparse.Namespace) -> int:
    """Prints the JSON Schema of a document.

    With that of the configuration, an editor completes keys and explains them, such as VS Code with Even Better TOML.
    The configuration names it in its first line: `#:schema ./config.schema.json`.
    Exit codes: 0 done, 64 usage.
    """
    from edge_agent.tools.schema.schema import json_schema

    print(printable_json(json_schema(options.name)))
    return EXIT_OK


def _ask(options: argparse.Namespace) -> int:
    """Sends one request and prints the reply.

    Exit codes: 0 the reply is ok, 1 no broker or no reply in time, 2 the reply has another status, 64 usage, 78 bad
    configuration.
    """
    from edge_agent.tools.ask import ask, parse_input

    bus = bus_of(options)
    text = sys.stdin.read() if options.input == "-" else options.input
    if not re.fullmatch(NAME_PATTERN, options.task):
        return fail(f"TASK should be letters, digits, _ and -, at most 64 (got {shown(options.task)})", EXIT_USAGE)
    try:
        text.encode()
        value = text if options.text else parse_input(text)
    except UnicodeEncodeError:
        return fail("INPUT should be UTF-8", EXIT_USAGE)
    except NotJsonError as error:
        return fail(f"INPUT is not JSON: {error}; --text sends it as it is", EXIT_USAGE)
    fields = {name: given for name in ("priority", "options") if (given := getattr(options, name)) is not None}
    if options.pool is not None and not re.fullmatch(NAME_PATTERN, options.pool):
        return fail(f"--pool should be letters, digits, _ and -, at most 64 (got {shown(options.pool)})", EXIT_USAGE)
    reply = ask(bus, options.task, value, deadline_ms=options.deadline_ms, fields=fields, pool=options.pool)
    return _print_reply(reply)


def _command(options: argparse.Namespace) -> int:
    """Sends one command and prints its result.

    The command is sent once the board is on the bus.
    Exit codes: 0 done, 1 no broker, no board or no result in time, 2 refused or failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.command import send_command

    bus = bus_of(options)
    timeout_s = options.timeout or (900.0 if options.operation.startswith("model-") else 60.0)
    return _print_reply(send_command(bus, options.operation, options.fields, timeout_s=timeout_s))


def _accuracy(options: argparse.Namespace) -> int:
    """Prints how often a task's answers are right.

    It fetches the answers that the board keeps, where `[feedback]` is on and `commands.allow` lists feedback-export.
    --html needs the extra `plots`.
    Exit codes: 0 done, 1 no broker, no board, no answer kept or a file that cannot be written, 2 refused, 64 usage, 78
    bad configuration.
    """
    from edge_agent.learning.commands.accuracy.accuracy import accuracy

    files = {"html": options.html, "out": options.out}
    return accuracy(bus_of(options), options.task, as_json=options.json, timeout_s=options.timeout, **files)


def _rows(options: argparse.Namespace) -> int:
    """Writes a task's answers with feedback and their inputs, as rows for `edge-convert train`.

    It reads what this board keeps with `feedback.keep_inputs`, also while the agent runs; as root or as the service's
    account. Only its owner can read the file. Of an input with several right labels, the newest answer's counts.
    Exit codes: 0 written, 1 no row or failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.learning.commands.rows import rows

    return rows(options.config, options.task, options.out, force=options.force, as_json=options.json)


def _watch(options: argparse.Namespace) -> int:
    """Shows all boards of a site, live.

    The worst board is first. q or Ctrl-C ends it. Boards below the end of the screen are in --once.
    Exit codes: 0 ended, 1 no broker, or one look without a board, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.watch.watch import watch

    bus = bus_of(options)
    return watch(bus.mqtt, bus.site, is_once=options.once, as_json=options.json, wait_s=options.wait)


def _pool(options: argparse.Namespace) -> int:
    """Prepares RabbitMQ for a pool of boards, or shows how the pool is.

    declare makes the pool's queues and their binding, and changes none that is there. status shows the queue and the
    boards that answer it, and which task a board lacks.
    Exit codes: 0 done, 1 no broker, no queue, too few boards, or a board lacks a task, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools import pool

    if (options.username is None) != (options.password_file is None):
        return fail("--username and --password-file: each requires the other", EXIT_USAGE)
    config = load_config(options.config, pool.config_faults)
    if options.action == "declare":
        return pool.declare(config, options.most_waiting, options.username, options.password_file)
    return pool.status(config, as_json=options.json, wait_s=options.wait, least_boards=options.boards)


def _doctor(options: argparse.Namespace) -> int:
    """Checks whether this board can serve its configuration.

    Each line says what to do. As root it also checks what the service's account may read and write.
    With --host it reads no configuration and checks only whether that broker accepts that board.
    Exit codes: 0 good, 1 a check failed, 64 usage.
    """
    from edge_agent.tools.doctor.doctor import doctor

    if options.host is None:
        refuse_without_host(options, "site", "device")
    bus = None if options.host is None else bus_of(options)
    return doctor(options.config, bus, is_broker_only=options.broker, as_json=options.json)


def _diag(options: argparse.Namespace) -> int:
    """Collects what support needs in one file without secrets.

    It also works where the configuration is broken, or parts of the board do not answer. As root it is complete.
    Exit codes: 0 written, 1 failed, 64 usage, 78 written, but the configuration has faults.
    """
    from edge_agent.tools.diag import diag

    return diag(options.config, options.out)


def _probe(options: argparse.Namespace) -> int:
    """Checks whether a bundle's model answers here as where it was made.

    It checks the bundle, loads its model in a worker of its own, asks the canaries and lists the answers that differ. A
    running agent is not asked.
    Exit codes: 0 as recorded, 1 an answer differs or the model does not load, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.probe import probe

    return probe(options.config or (None if options.bundle else DEFAULT_PATH), options.bundle)


def _bench(options: argparse.Namespace) -> int:
    """Measures this board with a model.

    Requests per second and latencies of three tasks, tokens per second by threads and width of a step, memory, start
    times. Stop the agent's service first: two models at once disturb each other.
    Exit codes: 0 done, 1 failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.bench.bench import bench

    return bench(options.config, options.model, is_quick=options.quick, as_json=options.json)


def _tune(options: argparse.Namespace) -> int:
    """Finds what makes a `classify` task right more often, from rows with their right labels.

    It tries examples and corrections of the scores with the configuration's model, within --max-slower. It prints what
    each is worth, and the keys to put into the configuration. Stop the agent's service first: two models at once
    disturb each other.
    Exit codes: 0 done, 1 failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.learning.commands.tune.tune import Options, tune

    names = ("task", "labelled", "unlabelled", "config", "wordings", "minutes", "max_slower", "out", "force")
    return tune(Options(**{name: getattr(options, name) for name in names}, as_json=options.json))


def _demo(options: argparse.Namespace) -> int:
    """Runs broker, model, agent and sensors on this machine.

    The model is small and knows only synthetic pump readings.
    Exit codes: 0 every reading was answered, 1 failed, 64 usage.
    """
    from edge_agent.tools.demo.demo import demo

    return demo(options.port, options.work, keep=options.keep)


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    top = _Parser(
        prog="edge-agent",
        description="An LLM inference node on a factory's MQTT bus.",
        epilog="`edge-agent COMMAND --help` shows the options and exit codes of a command.",
    )
    top.add_argument("--version", action=ShowVersion)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(run: Callable[[argparse.Namespace], int], extra: str | None = None) -> _Parser:
        """A command with the name and the text of its function. extra: the one that it needs."""
        about, _, exits = " ".join((run.__doc__ or "").split()).partition(" Exit codes: ")
        first = about.split(". ")[0].rstrip(".")
        added: _Parser = commands.add_parser(
            run.__name__.strip("_").replace("_", "-"),
            help=first[0].lower() + first[1:],
            description=about,
            epilog=f"Exit codes: {exits}",
        )
        added.set_defaults(run=run, extra=extra)
        return added

    def option(
        to: argparse._ActionsContainer,
        flag: str,
        metavar: str,
        about: str,
        kind: Callable[[str], Any] = str,
        **more: Any,
    ) -> None:
        """An option or argument with a value."""
        to.add_argument(flag, metavar=metavar, type=kind, help=about, **more)

    def add_config(to: argparse._ActionsContainer) -> None:
        option(to, "--config", "FILE", "the configuration (default: %(default)s)", Path, default=DEFAULT_PATH)

    def add_json(to: argparse._ActionsContainer) -> None:
        to.add_argument("--json", action="store_true", help="prints one JSON object instead")

    add_config(add(_run))

    check = add(_check_config)
    option(check, "file", "FILE", "the same as --config FILE", Path, nargs="?")
    add_config(check)

    init = add(_init)
    option(init, "--out", "FILE", "the file to write (default: %(default)s)", Path, default=Path("config.toml"))
    init.add_argument("--force", action="store_true", help="replaces an existing file")
    option(init, "--model", "PATH", "a bundle or a .gguf (default: echo:, a test model without weights)")
    task = init.add_argument_group("task")
    option(task, "--task", "NAME", "the task's name, such as pump-triage")
    kinds = "what an answer is (default: classify with --labels, extract with --schema)"
    task.add_argument("--kind", choices=KINDS, help=kinds)
    option(task, "--labels", "A,B,…", "the labels to choose from, such as normal,worn,broken")
    option(task, "--schema", "FILE", "a JSON Schema of the answers (default of --kind extract: a sample to edit)")
    option(task, "--system", "TEXT", "what the model should know and do")
    option(task, "--subscribe", "TOPIC,…", "topics where sensors publish readings, such as plant/+/vibration")
    option(task, "--publish", "TOPIC", "where their answers go, such as plant/{1}/triage")
    add_bus_options(init, None)

    option(add(_schema), "name", "NAME", ", ".join(SCHEMAS), choices=SCHEMAS)

    ask = add(_ask)
    option(ask, "task", "TASK", "a task of the board, or generate")
    option(ask, "input", "INPUT", "text, or a JSON object or array; - reads standard input")
    ask.add_argument("--text", action="store_true", help="INPUT is text, even if it begins with { or [")
    option(ask, "--deadline-ms", "MS", "how long the answer is of use (default: %(default)s)", int, default=60_000)
    option(ask, "--priority", "0-9", "0 is most urgent (default: the task's)", int, choices=range(10))
    option(ask, "--pool", "POOL", "asks this pool of the site in place of the board")
    option(ask, "--options", "JSON", "a JSON object, such as '{\"max_tokens\": 64}'", _json_object)
    add_bus_options(ask, DEFAULT_PATH)

    command = add(_command)
    option(command, "operation", "OP", ", ".join(OPERATIONS), choices=OPERATIONS)
    option(
        command, "fields", "FIELDS", "a JSON object, such as '{\"timeout_s\": 5}'", _json_object, nargs="?", default={}
    )
    option(command, "--timeout", "S", "seconds to wait for the result (default: 60, for a model switch 900)", _seconds)
    signs = "the file of the key that signs the command (default: the configuration's commands.key_file)"
    option(command, "--command-key", "FILE", signs, Path)
    add_bus_options(command, DEFAULT_PATH)

    accuracy = add(_accuracy)
    option(accuracy, "task", "TASK", "a task of the kind classify")
    add_json(accuracy)
    option(accuracy, "--html", "FILE", "also writes a page with figures", Path)
    option(accuracy, "--out", "FILE", "also writes the answers as JSON, for `edge-convert extend`", Path)
    option(
        accuracy,
        "--timeout",
        "S",
        "seconds to wait for each page of answers (default: %(default)s)",
        _seconds,
        default=60.0,
    )
    option(accuracy, "--command-key", "FILE", signs, Path)
    add_bus_options(accuracy, DEFAULT_PATH)

    rows = add(_rows)
    option(rows, "task", "TASK", "a task of the kind classify")
    add_config(rows)
    option(rows, "--out", "FILE", "the file to write (default: %(default)s)", Path, default=Path("rows.jsonl"))
    rows.add_argument("--force", action="store_true", help="replaces an existing file")
    add_json(rows)

    watch = add(_watch)
    watch.add_argument("--once", action="store_true", help="one look; the default without a terminal")
    watch.add_argument("--json", action="store_true", help="one look as a JSON object")
    option(watch, "--wait", "S", "seconds that one look may take (default: %(default)s)", _seconds, default=5.0)
    add_bus_options(watch, DEFAULT_PATH, has_device=False)

    pool = add(_pool, extra="pool")
    pool.add_argument("action", metavar="ACTION", choices=("declare", "status"), help="declare, status")
    add_config(pool)
    bound = "declare: how many requests may wait; more are refused (default: %(default)s)"
    option(pool, "--most-waiting", "N", bound, _count, default=10_000)
    option(pool, "--username", "NAME", "declare: a user that may declare queues (default: that of [mqtt])")
    option(pool, "--password-file", "FILE", "declare: a file that holds that user's password", Path)
    option(pool, "--wait", "S", "status: seconds to listen to boards (default: %(default)s)", _seconds, default=12.0)
    least = "status: how many boards the pool should have; with fewer the exit code is 1 (default: %(default)s)"
    option(pool, "--boards", "N", least, _count, default=1)
    add_json(pool)

    doctor = add(_doctor)
    doctor.add_argument("--broker", action="store_true", help="checks only whether the broker accepts this board")
    add_json(doctor)
    add_bus_options(doctor, DEFAULT_PATH)

    diag = add(_diag)
    add_config(diag)
    option(diag, "--out", "FILE", "the file to write (default: `edge-diag-<device>-<time>.tar.gz`, here)", Path)

    probe = add(_probe, extra="engine")
    option(probe, "--bundle", "DIR", "the bundle to ask (default: the configuration's model)", Path)
    defaults = f"default: {DEFAULT_PATH}; with --bundle none: then neither public_key nor [engine] applies"
    option(probe, "--config", "FILE", f"the configuration ({defaults})", Path)

    bench = add(_bench, extra="engine")
    measured = bench.add_mutually_exclusive_group()
    add_config(measured)
    option(measured, "--model", "PATH", "a bundle or a .gguf, with default settings", Path)
    bench.add_argument("--quick", action="store_true", help="one round instead of some minutes")
    add_json(bench)

    tune = add(_tune, extra="engine")
    option(tune, "task", "TASK", "a task of the kind classify")
    labelled = 'lines of {"input": …, "answer": "label"}; or a .csv with a column answer, and input or other columns'
    option(tune, "--labelled", "FILE", labelled, Path)
    option(tune, "--unlabelled", "FILE", "inputs without labels, one a line, as JSON or text", Path)
    option(tune, "--wordings", "FILE", "other texts for `system` to try, one a line", Path)
    add_config(tune)
    option(tune, "--minutes", "MIN", "how long it may take (default: %(default)s)", _minutes, default=10.0)
    slower = "how much more time a request may take, in percent (default: %(default)s)"
    option(tune, "--max-slower", "PERCENT", slower, _percent, default=5.0)
    option(tune, "--out", "FILE", "where to write the keys (default: standard output)", Path)
    tune.add_argument("--force", action="store_true", help="replaces an existing file")
    add_json(tune)

    demo = add(_demo, extra="demo")
    ports = "the broker's port on 127.0.0.1 (default: a free one); an embedded one has MQTT 3.1.1 at the next port"
    option(demo, "--port", "PORT", ports, _port)
    option(
        demo, "--work", "DIR", "folder for the converted model and the agent's state (default: the user's cache)", Path
    )
    demo.add_argument("--keep", action="store_true", help="keeps it running until Ctrl-C")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    options = parser().parse_args(arguments)
    if options.extra and (missing := missing_extra(options.extra)):
        return fail(missing)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except ConfigError as error:
        for fault in error.faults:
            print(printable(f"{error.path}: {fault}"), file=sys.stderr)
        return EXIT_CONFIG
    except OptionError as error:
        return fail(str(error), EXIT_USAGE)
    except NoAnswerError as error:
        return fail(str(error))
    except BrokenPipeError:
        # The reader of standard output has ended: at the exit Python would try to flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED
    return code


def _print_reply(reply: dict[str, Any]) -> int:
    print(printable_json(reply))
    return EXIT_OK if reply.get("status") == "ok" else EXIT_OTHER_STATUS


def _number(text: str, least: float, most: float, rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"should be {rule} (got {shown(text)})")
    return value


def _seconds(text: str) -> float:
    return _number(text, 1e-9, 3600, "seconds, above 0 and up to 3600")


def _minutes(text: str) -> float:
    return _number(text, 0.01, 1440, "minutes, 0.01 to 1440")


def _percent(text: str) -> float:
    return _number(text, 0, 1000, "percent, 0 to 1000")


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,8}", text) or not 1 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"should be a whole number, 1 to 10000000 (got {shown(text)})")
    return int(text)


def _port(text: str) -> int:
    # An embedded broker takes the next one, too.
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) < 65535:
        raise argparse.ArgumentTypeError(f"should be a port, 1 to 65534 (got {shown(text)})")
    return int(text)


def _json_object(text: str) -> dict[str, object]:
    try:
        value = parse_json(text)
    except NotJsonError as error:
        raise argparse.ArgumentTypeError(f"should be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"should be a JSON object (got {shown(text)})")
    return value

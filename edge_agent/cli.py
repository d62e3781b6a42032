"""Commands and exit codes: what each command does, and in `_parser` its options."""

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

from edge_agent import __version__
from edge_agent.core.config import OPERATIONS
from edge_agent.core.config_file import ConfigError
from edge_agent.core.extras import missing_extra
from edge_agent.core.log_limit import BoundedHandler
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.topics import NAME_PATTERN
from edge_agent.core.wording import printable, printable_json, shown
from edge_agent.loader import DEFAULT_PATH, config_hints, file_faults, load_config, signing_key_faults
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.tools.output import fail

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
    # Until the agent handles signals itself (its model is being checked), a stop ends it and a reload is ignored.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(EXIT_OK))
    from edge_agent.agent import Agent
    from edge_agent.core.environment import keep_heap_small
    from edge_agent.core.model import ModelError
    from edge_agent.core.pipe import is_echo
    from edge_agent.core.state_files import StateInUseError, locked
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
    path: Path = options.file or options.config
    config = load_config(path)
    needed = [f"{fault}; `run` needs it" for fault in file_faults(config)]
    for hint in (*config_hints(config), *needed):
        print(printable(f"{path}: hint: {hint}"), file=sys.stderr)
    print(printable(f"{path}: good"))
    return EXIT_OK


def _ask(options: argparse.Namespace) -> int:
    from edge_agent.tools.ask import ask, parse_input
    from edge_agent.tools.client import NoAnswerError

    config = load_config(options.config, lambda config: credential_faults(config.mqtt))
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
    try:
        reply = ask(config.mqtt, config.topics, options.task, value, deadline_ms=options.deadline_ms, fields=fields)
    except NoAnswerError as error:
        return fail(str(error))
    return _print_reply(reply)


def _command(options: argparse.Namespace) -> int:
    from edge_agent.tools.client import NoAnswerError
    from edge_agent.tools.command import send_command

    config = load_config(options.config, lambda config: [*credential_faults(config.mqtt), *signing_key_faults(config)])
    try:
        timeout_s = options.timeout or (900.0 if options.operation.startswith("model-") else 60.0)
        return _print_reply(send_command(config, options.operation, options.fields, timeout_s=timeout_s))
    except NoAnswerError as error:
        return fail(str(error))


def _watch(options: argparse.Namespace) -> int:
    from edge_agent.tools.watch.watch import BrokerError, broker_and_site, watch

    try:
        mqtt, site = broker_and_site(options)
    except BrokerError as error:
        return fail(str(error), EXIT_USAGE)
    return watch(mqtt, site, is_once=options.once, as_json=options.json, wait_s=options.wait)


def _doctor(options: argparse.Namespace) -> int:
    from edge_agent.tools.doctor.doctor import doctor

    return doctor(options.config, is_broker_only=options.broker, as_json=options.json)


def _diag(options: argparse.Namespace) -> int:
    from edge_agent.tools.diag import diag

    return diag(options.config, options.out)


def _probe(options: argparse.Namespace) -> int:
    from edge_agent.tools.probe import probe

    return probe(options.config or (None if options.bundle else DEFAULT_PATH), options.bundle)


def _bench(options: argparse.Namespace) -> int:
    from edge_agent.tools.bench.bench import bench

    return bench(options.config, options.model, is_quick=options.quick, as_json=options.json)


def _demo(options: argparse.Namespace) -> int:
    from edge_agent.tools.demo.demo import demo

    return demo(options.port, options.work, keep=options.keep)


def _parser() -> _Parser:
    parser = _Parser(prog="edge-agent", description="An LLM inference node on a factory's MQTT bus.")
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str,
        run: Callable[[argparse.Namespace], int],
        summary: str,
        details: str | None = None,
        extra: str | None = None,
    ) -> _Parser:
        """summary: a line in the list of commands. details: what `COMMAND --help` says. extra: what it needs."""
        added: _Parser = commands.add_parser(name, help=summary, description=details)
        added.set_defaults(run=run, extra=extra)
        return added

    def add_config(to: argparse._ActionsContainer) -> None:
        to.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")

    add_config(add("run", _run, "the daemon", "Serves requests until SIGTERM. SIGHUP reloads the configuration."))

    check = add("check-config", _check_config, "lists every fault of a configuration file")
    check.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the same as --config FILE")
    add_config(check)

    ask = add("ask", _ask, "sends one request over MQTT and prints the reply")
    add_config(ask)
    ask.add_argument("task", metavar="TASK", help="a task of the configuration, or generate")
    ask.add_argument("input", metavar="INPUT", help="text, or a JSON object or array; - reads standard input")
    ask.add_argument("--text", action="store_true", help="INPUT is text, even if it begins with { or [")
    ask.add_argument("--deadline-ms", type=int, default=60_000, metavar="MS", help="default: %(default)s")
    ask.add_argument("--priority", type=int, choices=range(10), metavar="0-9", help="0 is most urgent")
    options_help = "a JSON object, such as '{\"max_tokens\": 64}'"
    ask.add_argument("--options", type=_json_object, metavar="JSON", help=options_help)

    command = add(
        "command",
        _command,
        "sends one command over MQTT and prints its result",
        "The command goes to the configuration's board once it is on the bus, signed if commands.key_file is set.",
    )
    add_config(command)
    command.add_argument("operation", metavar="OP", choices=OPERATIONS, help=", ".join(OPERATIONS))
    fields_help = "a JSON object, such as '{\"timeout_s\": 5}'"
    command.add_argument("fields", metavar="FIELDS", nargs="?", type=_json_object, default={}, help=fields_help)
    timeout_help = "how long to wait for the result (default: 60 s, for a model switch 900 s)"
    command.add_argument("--timeout", type=_seconds, metavar="S", help=timeout_help)

    watch = add(
        "watch",
        _watch,
        "live view of all boards of a site",
        "Shows what the boards of a site publish about themselves, the worst first. Broker and site come from the "
        "configuration, or from options. q or Ctrl-C ends it; --once lists boards below the screen, too.",
    )
    broker = watch.add_mutually_exclusive_group()
    add_config(broker)
    broker.add_argument("--host", metavar="HOST", help="the broker; then no configuration is read")
    watch.add_argument("--site", metavar="SITE", help="default: the configuration's")
    watch.add_argument("--port", type=int, metavar="PORT", help="default: 1883, with TLS 8883")
    watch.add_argument("--protocol", choices=("5", "3.1.1"), help="MQTT version (default: 5)")
    watch.add_argument("--root", metavar="TOPIC", help="default: edgeai/v1")
    watch.add_argument("--username", metavar="NAME")
    watch.add_argument("--password-file", metavar="FILE")
    watch.add_argument("--tls", action="store_true", help="TLS, verified with the system's certificates")
    for file in ("ca", "cert", "key"):
        watch.add_argument(f"--{file}-file", metavar="FILE", help="TLS with this file, PEM")
    watch.add_argument("--once", action="store_true", help="one look; the default without a terminal")
    watch.add_argument("--json", action="store_true", help="one look as a JSON object")
    wait_help = "the longest time of one look (default: %(default)s s)"
    watch.add_argument("--wait", type=_seconds, default=3.0, metavar="S", help=wait_help)

    doctor = add("doctor", _doctor, "checks whether this board can serve this configuration")
    add_config(doctor)
    doctor.add_argument("--broker", action="store_true", help="only check whether the broker accepts this board")
    doctor.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    diag = add(
        "diag",
        _diag,
        "collects what support needs in one file without secrets",
        "It also works where the configuration is broken (exit code 78) or parts of the board do not answer.",
    )
    add_config(diag)
    out_help = "default: edge-diag-<device>-<time>.tar.gz in this folder"
    diag.add_argument("--out", type=Path, metavar="FILE", help=out_help)

    probe = add(
        "probe",
        _probe,
        "asks a bundle's canaries: does its model answer here as recorded?",
        "Checks the bundle, loads its model in a worker of its own, asks the requests of its canaries.json and lists "
        "the answers that differ. A running agent is not asked.",
        extra="engine",
    )
    probe.add_argument("--bundle", type=Path, metavar="DIR", help="default: the configuration's")
    config_help = f"default: {DEFAULT_PATH}; with --bundle none: then neither public_key nor [engine] applies"
    probe.add_argument("--config", type=Path, metavar="FILE", help=config_help)

    bench = add(
        "bench",
        _bench,
        "measures this board with a model: requests, tokens, memory",
        "Requests/s and latencies of three tasks, tokens/s by threads and width of a step, memory, starts. "
        "Stop the agent's service first: two models at once disturb each other.",
        extra="engine",
    )
    measured = bench.add_mutually_exclusive_group()
    add_config(measured)
    measured.add_argument("--model", type=Path, metavar="PATH", help="a bundle or a .gguf, with default settings")
    bench.add_argument("--quick", action="store_true", help="one round instead of some minutes")
    bench.add_argument("--json", action="store_true", help="one JSON object instead of tables")

    demo = add("demo", _demo, "broker, model, agent and sensors on this machine: real answers", extra="demo")
    port_help = "the broker's port on 127.0.0.1 (default: a free one); an embedded one has MQTT 3.1.1 at the next port"
    demo.add_argument("--port", type=int, metavar="PORT", help=port_help)
    work_help = "folder for the converted model and the agent's state (default: the user's cache)"
    demo.add_argument("--work", type=Path, metavar="DIR", help=work_help)
    demo.add_argument("--keep", action="store_true", help="keep it running until Ctrl-C")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.extra and (missing := missing_extra(options.extra)):
        return fail(missing)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except ConfigError as error:
        for fault in error.faults:
            print(printable(f"{error.path}: {fault}"), file=sys.stderr)
        return EXIT_CONFIG
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


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"should be seconds, above 0 and up to 3600 (got {shown(text)})")
    return value


def _json_object(text: str) -> dict[str, object]:
    try:
        value = parse_json(text)
    except NotJsonError as error:
        raise argparse.ArgumentTypeError(f"should be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"should be a JSON object (got {shown(text)})")
    return value

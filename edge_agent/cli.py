"""Commands and exit codes."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import NoReturn

from edge_agent import __version__
from edge_agent.core.config import COMMANDS, Config
from edge_agent.core.config_file import ConfigError
from edge_agent.core.envelope import MAX_DEADLINE_MS
from edge_agent.core.errors import printable, printable_json, shown
from edge_agent.core.log_limit import BoundedHandler
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.topics import NAME_PATTERN
from edge_agent.loader import (
    DEFAULT_PATH,
    broker_file_faults,
    command_file_faults,
    config_hints,
    file_faults,
    load_config,
)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_OTHER_STATUS = 2
EXIT_USAGE = 64
EXIT_CONFIG = 78


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edge-agent", description="An LLM inference node on a factory's MQTT bus.")
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="the daemon", description="Serves requests until SIGTERM. SIGHUP reloads the configuration."
    )
    _add_config(run)

    check = commands.add_parser("check-config", help="lists every fault of a configuration file")
    check.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the same as --config FILE")
    _add_config(check)

    ask = commands.add_parser("ask", help="sends one request over MQTT and prints the reply")
    _add_config(ask)
    ask.add_argument("task", type=_task, metavar="TASK", help="a task of the configuration, or generate")
    ask.add_argument("input", metavar="INPUT", help="text, or a JSON object or array; - reads standard input")
    ask.add_argument("--text", action="store_true", help="INPUT is text, even if it begins with { or [")
    ask.add_argument("--deadline-ms", type=_deadline_ms, default=60_000, metavar="MS", help="default: %(default)s")
    ask.add_argument("--priority", type=_priority, metavar="0-9", help="0 is most urgent")
    ask.add_argument(
        "--options", type=_json_object, metavar="JSON", help="a JSON object, such as '{\"max_tokens\": 64}'"
    )

    command = commands.add_parser(
        "command",
        help="sends one command over MQTT and prints its result",
        description="To the configuration's board, once it is on the bus; signed where commands.key_file names a key.",
    )
    _add_config(command)
    command.add_argument("operation", metavar="OP", choices=COMMANDS, help=", ".join(COMMANDS))
    command.add_argument(
        "fields",
        metavar="FIELDS",
        nargs="?",
        type=_json_object,
        default={},
        help="a JSON object, such as '{\"timeout_s\": 5}'",
    )
    command.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="S", help="until the result (default: %(default)s s)"
    )

    watch = commands.add_parser(
        "watch",
        help="live view of all boards of a site",
        description="The boards of a site as they tell of themselves, worst first; with the configuration's broker and "
        "site, or others. Keys: arrows, PgUp, PgDn scroll, s sorts, q ends.",
    )
    broker = watch.add_mutually_exclusive_group()
    _add_config(broker)
    broker.add_argument("--host", metavar="HOST", help="the broker; then no configuration is read")
    watch.add_argument("--site", metavar="SITE", help="default: the configuration's")
    watch.add_argument("--port", type=_port, metavar="PORT", help="default: 1883, with TLS 8883")
    watch.add_argument("--protocol", choices=("5", "3.1.1"), help="MQTT version (default: 5)")
    watch.add_argument("--root", metavar="TOPIC", help="default: edgeai/v1")
    watch.add_argument("--username", metavar="NAME")
    watch.add_argument("--password-file", metavar="FILE")
    watch.add_argument("--tls", action="store_true", help="TLS, verified with the system's certificates")
    for file in ("ca", "cert", "key"):
        watch.add_argument(f"--{file}-file", metavar="FILE", help="TLS with this file, PEM")
    watch.add_argument("--once", action="store_true", help="one look, as it is where standard output is no terminal")
    watch.add_argument("--json", action="store_true", help="one look as a JSON object")
    watch.add_argument(
        "--wait", type=_seconds, default=3.0, metavar="S", help="one look: at most so long (default: %(default)s s)"
    )

    doctor = commands.add_parser("doctor", help="checks whether this board can serve this configuration")
    _add_config(doctor)
    doctor.add_argument("--broker", action="store_true", help="only whether the broker takes this board, some seconds")
    doctor.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    diag = commands.add_parser(
        "diag",
        help="what support needs to know of this board, in one file without secrets",
        description="Also where the configuration is broken (exit code 78 then) or parts of the board do not answer.",
    )
    _add_config(diag)
    diag.add_argument(
        "--out", type=Path, metavar="FILE", help="default: edge-diag-<device>-<time>.tar.gz in this folder"
    )
    diag.add_argument("--json", action="store_true", help="tell what is in it as one JSON object")

    probe = commands.add_parser(
        "probe",
        help="asks a bundle's canaries: does its model answer here as where it was made?",
        description="Checks the bundle, loads its model in a worker of its own, asks the requests of its canaries.json "
        "and says which answers are not those recorded. An agent that runs is not asked.",
    )
    probe.add_argument("--bundle", type=Path, metavar="DIR", help="default: the configuration's")
    probe.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"default: {DEFAULT_PATH}; with --bundle none: neither its public_key nor its [engine] count",
    )

    bench = commands.add_parser(
        "bench",
        help="measures this board with a model: requests, tokens, memory",
        description="Requests/s and latencies of three tasks, tokens/s by threads and width of a step, memory, starts. "
        "Stop the agent's service before: two models at once measure each other.",
    )
    measured = bench.add_mutually_exclusive_group()
    _add_config(measured)
    measured.add_argument("--model", type=Path, metavar="PATH", help="a bundle or a .gguf, with default settings")
    bench.add_argument("--quick", action="store_true", help="one round instead of some minutes")
    bench.add_argument("--json", action="store_true", help="one JSON object instead of tables")

    demo = commands.add_parser("demo", help="broker, model, agent and sensors on this machine: real answers")
    demo.add_argument("--protocol", choices=("5", "3.1.1"), default="5", help="MQTT version (default: %(default)s)")
    demo.add_argument("--port", type=_port, metavar="PORT", help="the broker's port on 127.0.0.1 (default: a free one)")
    demo.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="where the converted model and the agent's state are kept (default: the user's cache)",
    )
    demo.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    return parser


def _add_config(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")


def _integer(text: str, what: str, least: int, most: int) -> int:
    if not text.isdecimal() or len(text) > len(str(most)) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"should be {what} from {least} to {most} (got {shown(text)})")
    return int(text)


def _deadline_ms(text: str) -> int:
    return _integer(text, "milliseconds", 1, MAX_DEADLINE_MS)


def _priority(text: str) -> int:
    return _integer(text, "an integer", 0, 9)


def _task(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(f"should be letters, digits, _ and -, at most 64 (got {shown(text)})")
    return text


def _port(text: str) -> int:
    return _integer(text, "a port", 1, 65535)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"should be seconds, up to 3600 (got {shown(text)})")
    return value


def _json_object(text: str) -> dict[str, object]:
    try:
        value = parse_json(text)
    except NotJsonError as error:
        raise argparse.ArgumentTypeError(f"should be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"should be a JSON object (got {shown(text)})")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; gives the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = _act(options)
        if sys.stdout is not None:  # as it is where it was closed before the start
            sys.stdout.flush()
    except ConfigError as error:
        is_unnamed = error.path == DEFAULT_PATH and isinstance(error.__cause__, FileNotFoundError)
        instead = ", or --host HOST --site SITE the boards to watch" if options.command == "watch" else ""
        hint = f"; --config FILE names another{instead}" if is_unnamed else ""
        for fault in error.faults:
            print(printable(f"{error.path}: {fault}{hint}"), file=sys.stderr)
        return EXIT_CONFIG
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # Who read our output has ended, as `head` does, or its disk is full: at the exit Python would try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            print(f"edge-agent: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED
    return code


def _act(options: argparse.Namespace) -> int:
    match options.command:
        case "run":
            return _run(options.config)
        case "check-config":
            return _check_config(options.file or options.config)
        case "ask":
            return _ask(options)
        case "command":
            return _command(options)
        case "watch":
            return _watch(options)
        case "doctor":
            from edge_agent.tools.doctor.doctor import doctor  # noqa: PLC0415 - only this command pays for it

            return doctor(options.config, is_broker_only=options.broker, as_json=options.json)
        case "diag":
            from edge_agent.tools.diag.diag import diag  # noqa: PLC0415 - only this command pays for it

            return diag(options.config, options.out, as_json=options.json)
        case "probe":
            from edge_agent.tools.probe import probe  # noqa: PLC0415 - only this command pays for it

            is_unnamed = options.config is None and options.bundle is None
            return probe(DEFAULT_PATH if is_unnamed else options.config, options.bundle)
        case "bench":
            from edge_agent.tools.bench.bench import bench  # noqa: PLC0415 - only this command pays for it

            return bench(options.config, options.model, is_quick=options.quick, as_json=options.json)
        case _:
            from edge_agent.tools.demo.demo import demo  # noqa: PLC0415 - needs the extra `demo`

            return demo(options.protocol, options.port, options.work, keep=options.keep)


def _set_up_log(config: Config) -> None:
    # journald and docker add the time themselves.
    handlers = [BoundedHandler(sys.stderr)]
    logging.basicConfig(level=config.log.level, format="%(levelname)s %(name)s: %(message)s", handlers=handlers)


def _run(path: Path) -> int:
    # Until the agent hears signals itself (its model is being checked), a stop is a stop and a reload comes too early.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(EXIT_OK))
    from edge_agent.agent import Agent  # noqa: PLC0415 - check-config needs none of it
    from edge_agent.core.heap import keep_heap_small  # noqa: PLC0415
    from edge_agent.core.model import ModelError  # noqa: PLC0415
    from edge_agent.models.record import open_in_force  # noqa: PLC0415
    from edge_agent.store.state_lock import StateInUseError, locked  # noqa: PLC0415

    keep_heap_small()
    config = load_config(path, file_faults)
    _set_up_log(config)
    try:
        with locked(config.state_dir):
            return Agent(config, path, open_in_force(config)).run()
    except (StateInUseError, ModelError) as error:
        print(printable(f"edge-agent: {error}"), file=sys.stderr)
        return EXIT_FAILED


def _check_config(path: Path) -> int:
    config = load_config(path)
    needed = [f"{fault}; `run` needs it" for fault in file_faults(config)]
    for hint in (*config_hints(config), *needed):
        print(printable(f"{path}: hint: {hint}"), file=sys.stderr)
    print(printable(f"{path}: good"))
    return EXIT_OK


def _ask(options: argparse.Namespace) -> int:
    from edge_agent.tools.ask import ask, parse_input  # noqa: PLC0415
    from edge_agent.tools.client import NoAnswerError  # noqa: PLC0415

    config = load_config(options.config, broker_file_faults)
    text = options.input
    if text == "-":
        text = "" if sys.stdin is None else sys.stdin.read()
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        print("edge-agent: INPUT should be UTF-8", file=sys.stderr)
        return EXIT_USAGE
    try:
        given = text if options.text else parse_input(text)
    except NotJsonError as error:
        print(printable(f"edge-agent: INPUT is not JSON: {error}; --text sends it as it is"), file=sys.stderr)
        return EXIT_USAGE
    fields = {name: value for name in ("priority", "options") if (value := getattr(options, name)) is not None}
    try:
        reply = ask(config.mqtt, config.topics, options.task, given, deadline_ms=options.deadline_ms, fields=fields)
    except NoAnswerError as error:
        print(printable(f"edge-agent: {error}"), file=sys.stderr)
        return EXIT_FAILED
    print(printable_json(reply))
    return EXIT_OK if reply["status"] == "ok" else EXIT_OTHER_STATUS


def _command(options: argparse.Namespace) -> int:
    from edge_agent.tools.client import NoAnswerError  # noqa: PLC0415
    from edge_agent.tools.command import send_command  # noqa: PLC0415

    config = load_config(options.config, command_file_faults)
    try:
        result = send_command(config, options.operation, options.fields, timeout_s=options.timeout)
    except NoAnswerError as error:
        print(printable(f"edge-agent: {error}"), file=sys.stderr)
        return EXIT_FAILED
    print(printable_json(result))
    return EXIT_OK if result.get("status") == "ok" else EXIT_OTHER_STATUS


def _watch(options: argparse.Namespace) -> int:
    from edge_agent.tools.watch.broker import BrokerError, broker_and_site  # noqa: PLC0415
    from edge_agent.tools.watch.watch import watch  # noqa: PLC0415

    try:
        mqtt, site = broker_and_site(options)
    except BrokerError as error:
        for fault in error.faults:
            print(printable(f"edge-agent watch: {fault}"), file=sys.stderr)
        return EXIT_USAGE
    return watch(mqtt, site, is_once=options.once, as_json=options.json, wait_s=options.wait)


if __name__ == "__main__":
    sys.exit(main())

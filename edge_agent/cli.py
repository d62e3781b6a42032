"""Commands, their options and exit codes.

Each function under `@_cli_command` is a command of that name, with the options that the decorator lists. Its text is
the command's `--help`, and stands in docs/cli.md.
"""

import argparse
import logging
import os
import re
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from edge_agent.arguments import (
    CLASSIFY,
    CONFIG,
    COUNT,
    FORCE,
    JSON,
    MINUTES,
    PERCENT,
    PORT,
    SECONDS,
    SIGNING_KEY,
    WHICH_DAY,
    Option,
    bus_options,
    exclusive,
    expect_option,
    flag,
    option,
    parse_name,
    parse_object,
    parse_time,
    titled,
)
from edge_agent.core.config import OPERATIONS
from edge_agent.core.config_file import ConfigError
from edge_agent.core.extras import missing_extra
from edge_agent.core.kinds.registry import KINDS
from edge_agent.core.log_limit import BoundedHandler
from edge_agent.core.strict_json import NotJsonError
from edge_agent.core.terminal import fail
from edge_agent.core.topics import NAME_PATTERN
from edge_agent.core.version import ShowVersion
from edge_agent.core.wording import printable, printable_json, shown
from edge_agent.loader import DEFAULT_PATH, all_file_faults, config_hints, file_faults, load_config
from edge_agent.tools.bus import NoAnswerError, OptionError, bus_of, refuse_without_host
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


_Run = Callable[[argparse.Namespace], int]
_commands: list[tuple[_Run, str | None, tuple[Option, ...]]] = []


def _cli_command(*options: Option, extra: str | None = None) -> Callable[[_Run], _Run]:
    """Makes a function a command, which cannot run where the packages of `extra` are missing."""

    def add(run: _Run) -> _Run:
        _commands.append((run, extra, options))
        return run

    return add


@_cli_command(CONFIG)
def _run(options: argparse.Namespace) -> int:
    """Serves requests until it is stopped.

    SIGTERM: it refuses new requests, finishes what runs and ends. SIGHUP: it reloads the configuration. Without a model
    that it can use, it says so on the bus, refuses requests with the reason, and tries again every minute.
    Exit codes: 0 stopped, 1 failed, 64 usage, 78 bad configuration.
    """
    # Until the agent handles signals itself (its model is being checked), a stop ends it and a reload is ignored.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(EXIT_OK))
    from edge_agent.agent import Agent
    from edge_agent.core.environment import keep_heap_small
    from edge_agent.core.pipe import is_echo
    from edge_agent.core.state_lock import StateInUseError, locked
    from edge_agent.models.record import in_force, open_or_placeholder

    path: Path = options.config
    keep_heap_small()
    config = load_config(path, file_faults)
    if not is_echo(in_force(config)) and (missing := missing_extra("engine")):
        return fail(missing)
    # journald adds the time itself. Standard error is then a socket, even in containers, which lack JOURNAL_STREAM.
    time_prefix = "" if stat.S_ISSOCK(os.fstat(2).st_mode) else "%(asctime)s "
    logging.basicConfig(
        level=config.log.level,
        format=f"{time_prefix}%(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        handlers=[BoundedHandler(sys.stderr)],
    )
    try:
        with locked(config.state_dir):
            return Agent(config, path, *open_or_placeholder(config)).run()
    except StateInUseError as error:
        return fail(str(error))


@_cli_command(option("file FILE", "the same as --config FILE", Path, nargs="?"), CONFIG)
def _check_config(options: argparse.Namespace) -> int:
    """Lists the faults of a configuration file, as `edge-agent doctor --config-only` does.

    Hints name what is probably unintended, and files that `run` needs but that do not exist yet.
    Exit codes: 0 good, 64 usage, 78 bad configuration.
    """
    _say_new_name("doctor --config-only")
    return _list_faults(options.file or options.config)


@_cli_command(
    option("--out FILE", "the file to write (default: %(default)s)", Path, default=Path("config.toml")),
    FORCE,
    option("--model PATH", "a bundle or a .gguf (default: echo:, a test model without weights)"),
    titled(
        "task",
        option("--task NAME", "the task's name, such as pump-triage"),
        option("--kind", "what an answer is (default: classify with --labels, extract with --schema)", choices=KINDS),
        option("--labels A,B,…", "the labels to choose from, such as normal,worn,broken"),
        option("--schema FILE", "a JSON Schema of the answers (default of --kind extract: a sample to edit)"),
        option("--system TEXT", "what the model should know and do"),
        option("--example LABEL=INPUT", "an input with its label; give it several times", action="append"),
        option("--subscribe TOPIC,…", "topics where sensors publish readings, such as plant/+/vibration"),
        option("--publish TOPIC", "where their answers go, such as plant/{1}/triage"),
    ),
    titled(
        "signals",
        option("--discover FILTERS", "listens to these topics, separated by commas, and proposes a [signals] table"),
        option("--listen S", "how long it listens, in seconds (default: %(default)s)", SECONDS, default=60.0),
        flag("--rebirth", "asks Sparkplug nodes whose births it has missed for new ones: they send all metrics again"),
    ),
    bus_options(None),
)
def _init(options: argparse.Namespace) -> int:
    """Writes a first configuration.

    What no option gives is asked on a terminal; elsewhere it has its default, or is named as missing.
    Exit codes: 0 written, 1 not written, 64 usage: an option is missing or wrong.
    """
    from edge_agent.tools.init import init

    return init(options)


@_cli_command(option("name NAME", ", ".join(SCHEMAS), choices=SCHEMAS))
def _schema(options: argparse.Namespace) -> int:
    """Prints the JSON Schema of a document.

    With the configuration's schema, an editor such as VS Code with Even Better TOML completes and explains the keys.
    The configuration names the schema in its first line: `#:schema ./config.schema.json`.
    Exit codes: 0 done, 64 usage.
    """
    from edge_agent.tools.schema.schema import json_schema

    print(printable_json(json_schema(options.name)))
    return EXIT_OK


@_cli_command(
    option("task TASK", "a task of the board, or generate"),
    option("input INPUT", "text, or a JSON object or array; - reads standard input"),
    flag("--text", "INPUT is text, even if it begins with { or ["),
    option("--deadline-ms MS", "how long the answer is useful (default: %(default)s)", int, default=60_000),
    option("--priority 0-9", "0 is most urgent (default: the task's)", int, choices=range(10)),
    option("--pool POOL", "asks this pool of the site instead of the board"),
    option("--options JSON", "a JSON object, such as '{\"max_tokens\": 64}'", parse_object),
    bus_options(),
)
def _ask(options: argparse.Namespace) -> int:
    """Sends one request and prints the reply.

    It reads the board's state first, and sends nothing to a board that is stopped, cut off or unknown to the broker.
    The request is never audited, because what people try is no fair sample of the readings.
    Exit codes: 0 the reply is ok, 1 no broker, no board or no reply in time, 2 the reply has another status, 64 usage,
    78 bad configuration.
    """
    from edge_agent.tools.ask import ask, parse_input

    bus = bus_of(options)
    text = sys.stdin.read() if options.input == "-" else options.input
    for name, given in (("TASK", options.task), ("--pool", options.pool)):
        if given is not None and not re.fullmatch(NAME_PATTERN, given):
            return fail(f"{name} should be 1 to 64 letters, digits, _ or - (got {shown(given)})", EXIT_USAGE)
    try:
        text.encode()
        value = text if options.text else parse_input(text)
    except UnicodeEncodeError:
        return fail("INPUT should be UTF-8", EXIT_USAGE)
    except NotJsonError as error:
        return fail(f"INPUT is not JSON: {error}; --text sends it as it is", EXIT_USAGE)
    fields = {name: given for name in ("priority", "options") if (given := getattr(options, name)) is not None}
    reply = ask(bus, options.task, value, deadline_ms=options.deadline_ms, fields=fields, pool=options.pool)
    return _print_reply(reply)


@_cli_command(
    option("operation OP", ", ".join(OPERATIONS), choices=OPERATIONS),
    option("fields FIELDS", "a JSON object, such as '{\"timeout_s\": 5}'", parse_object, nargs="?", default={}),
    option("--timeout S", "seconds to wait for the result (default: 60, for a model switch 900)", SECONDS),
    option("--by NAME", "who sends it, for events and `info` (default: the account and host)", parse_name),
    SIGNING_KEY,
    bus_options(),
)
def _command(options: argparse.Namespace) -> int:
    """Sends one command and prints its result.

    The command is sent once the board is on the bus.
    Exit codes: 0 done, 1 no broker, no board or no result in time, 2 refused or failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.command import send_command

    bus = bus_of(options)
    timeout_s = options.timeout or (900.0 if options.operation.startswith("model-") else 60.0)
    return _print_reply(send_command(bus, options.operation, options.fields, timeout_s=timeout_s, by=options.by))


@_cli_command(
    option("task TASK", f"{CLASSIFY}, or one whose answers are numbers"),
    JSON,
    option("--html FILE", "also writes a page with figures", Path),
    option("--out FILE", "also writes the answers as JSON, for `edge-convert extend`", Path),
    option("--timeout S", "seconds to wait for each page of answers (default: %(default)s)", SECONDS, default=60.0),
    SIGNING_KEY,
    bus_options(),
)
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


@_cli_command(
    option("task TASK", "a task whose answers get feedback"),
    CONFIG,
    exclusive(
        flag("--recorded", "writes the readings that `record_every_s` recorded instead, without answers"),
        option("--faults FILE", "the same, with answers from this CSV file: machine,from,to,answer", Path),
    ),
    option("--else LABEL", "the answer for readings outside the intervals of --faults (default: they are left out)"),
    option(
        "--until TIME",
        f"only answers up to this date, time or both, so that audits after it can judge the model; {WHICH_DAY}",
        parse_time,
    ),
    option("--out FILE", "the file of JSON lines to write (default: %(default)s)", Path, default=Path("rows.jsonl")),
    FORCE,
    JSON,
)
def _rows(options: argparse.Namespace) -> int:
    """Writes a task's answers with feedback and their inputs, as rows for `edge-convert train`.

    It reads what this board keeps with `feedback.keep_inputs`, also while the agent runs; as root or as the service's
    account. Only its owner can read the file. Of an input with several right labels, the newest answer's counts.
    With --recorded or --faults, it writes the readings that the task's [signals] table recorded.
    Exit codes: 0 written, 1 no row or failed, 64 usage, 78 bad configuration.
    """
    otherwise = getattr(options, "else")
    if otherwise is not None and options.faults is None:
        raise OptionError("--else: requires --faults")
    if options.out.suffix.lower() == ".csv":
        rule = "should end in .jsonl: it holds JSON lines, which `edge-convert train` would read as CSV"
        raise OptionError(f"--out: {rule} (got {shown(str(options.out))})")
    if options.recorded or options.faults:
        if options.until is not None:
            raise OptionError("--until: not with --recorded or --faults")
        from edge_agent.signals import rows as recorded

        return recorded.rows(
            options.config, options.task, options.out, faults=options.faults, otherwise=otherwise,
            force=options.force, as_json=options.json,
        )  # fmt: skip
    from edge_agent.learning.commands.rows import rows

    return rows(
        options.config, options.task, options.out, until=options.until, force=options.force, as_json=options.json
    )


@_cli_command(option("task TASK", "a task whose answers get feedback"), CONFIG, JSON)
def _audits(options: argparse.Namespace) -> int:
    """Lists the open audits of a task: answers that this board asked to have checked, and that nobody has checked.

    It reads what this board keeps, also while the agent runs; as root or as the service's account. It shows inputs, and
    unusual readings, only with `feedback.keep_inputs`. The answers are not shown, because they would bias whoever
    checks them. Of audits that no longer count, because they are of an earlier model or text or from before the
    accuracy fell, it only says how many there are. For a task of the kind unusual, it also counts how many of the
    unusual readings people confirmed.
    Exit codes: 0 done, 1 failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.learning.commands.audits import audits

    return audits(options.config, options.task, as_json=options.json)


@_cli_command(
    option("task TASK", "the task that gave the answer"),
    option("id ID", "the id of its request, as in the reply and in `edge-agent audits`"),
    option(
        "answer ANSWER",
        "the right label, the true number, or what the reading really was",
        nargs="?",
    ),
    exclusive(
        flag("--right", "the answer was right"),
        flag("--wrong", "the answer was wrong; of an audit without an answer, that no label is right"),
    ),
    option("--by NAME", "who gives the feedback"),
    option("--reply-to TOPIC", "the reply topic, where several callers used the id"),
    option("--timeout S", "seconds to wait for the result (default: %(default)s)", SECONDS, default=10.0),
    bus_options(),
)
def _feedback(options: argparse.Namespace) -> int:
    """Tells a board whether an answer was right, and prints the result.

    It needs ANSWER, or one of --right and --wrong.
    Exit codes: 0 kept, 1 no broker, no board or no result in time, 2 refused, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.feedback import send_feedback

    if not re.fullmatch(NAME_PATTERN, options.task):
        return fail(f"TASK should be 1 to 64 letters, digits, _ or - (got {shown(options.task)})", EXIT_USAGE)
    if (options.answer is None) == (not options.right and not options.wrong):
        return fail("ANSWER, --right or --wrong: one of them is required, and no more", EXIT_USAGE)
    said = {"answer": options.answer} if options.answer is not None else {"correct": options.right}
    more = {"by": options.by, "reply_to": options.reply_to}
    said |= {name: value for name, value in more.items() if value is not None}
    return _print_reply(send_feedback(bus_of(options), options.task, options.id, said, timeout_s=options.timeout))


@_cli_command(
    option("action ACTION", "replay", choices=("replay",)),
    option("file FILE", "what `mosquitto_sub -F '%%U %%r %%x %%t'` recorded", Path),
    option("--table NAME", "only this table of [signals] (default: all)"),
    CONFIG,
)
def _signals(options: argparse.Namespace) -> int:
    """Prints the readings that [signals] makes of recorded messages, by the recording's clock.

    Each line is an object with signals, ts, machine, trigger and input. The input has the bytes that the agent would
    have asked with. At the end, standard error gets the figures that `health` would have of each table.
    Exit codes: 0 done, 1 the file or the table cannot be used, 64 usage, 78 bad configuration.
    """
    from edge_agent.signals.replay import replay

    return replay(options.config, options.file, options.table)


@_cli_command(
    flag("--once", "a snapshot; the default without a terminal"),
    flag("--json", "a snapshot as a JSON object"),
    option("--wait S", "seconds that a snapshot may take (default: %(default)s)", SECONDS, default=5.0),
    expect_option(),
    bus_options(has_device=False),
)
def _watch(options: argparse.Namespace) -> int:
    """Shows all boards of a site, live.

    The worst board is first. q or Ctrl-C ends it. --once also shows the boards that do not fit on the screen. It takes
    up to 20 s if boards are silent, perhaps because the broker has just come back.
    Exit codes: 0 ended, or each board of a snapshot is ok, 1 no broker, or a snapshot without a board, 2 a board of a
    snapshot is missing, offline, stale or critical, 3 one is in any other state, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.watch.expected import expected_of
    from edge_agent.tools.watch.watch import watch

    bus = bus_of(options)
    expected = expected_of(options.expect, bus.site)
    once = {"is_once": options.once, "as_json": options.json, "wait_s": options.wait}
    return watch(bus.mqtt, bus.site, expected=expected, **once)


@_cli_command(
    option(
        "action ACTION", "user: lists or changes the users in the file of --users instead", nargs="?", choices=("user",)
    ),
    option("step STEP", "add, list, remove, roles", nargs="?", choices=("add", "list", "remove", "roles")),
    option("user NAME", "the user to add, change or remove", nargs="?"),
    option("--listen ADDRESS:PORT", "where browsers reach it (default: %(default)s)", default="127.0.0.1:8780"),
    option(
        "--name HOST",
        "a name by which browsers may reach it, besides localhost; may be repeated",
        action="append",
        default=[],
    ),
    option("--web-cert-file FILE", "HTTPS with this certificate and its chain (PEM)", Path),
    option("--web-key-file FILE", "the key of --web-cert-file (PEM; default: it is in that file)", Path),
    option(
        "--behind-proxy ADDRESS",
        "the IP address or network of a proxy that terminates HTTPS; only it may connect; may be repeated",
        action="append",
        default=[],
    ),
    option(
        "--users FILE",
        "the people and programs that may log in; without it, everybody on this machine may do everything",
        Path,
    ),
    option(
        "--data DIR",
        "keeps the journal of the last 90 days, open checks and known boards "
        "(default: edge-agent/web/SITE in $XDG_STATE_HOME or ~/.local/state)",
        Path,
    ),
    expect_option(),
    flag("--public-view", "shows the screens without a login; writing still needs one"),
    titled(
        "user add, user roles",
        option(
            "--role ROLE",
            "feedback: may answer audits; try: may ask tasks; may be repeated; all users see the screens",
            action="append",
            default=[],
            choices=("feedback", "try"),
        ),
        flag("--token", "instead of a password, prints a token for a program"),
        flag("--force", "replaces an existing user"),
    ),
    bus_options(has_device=False),
    extra="web",
)
def _web(options: argparse.Namespace) -> int:
    """Serves a page on which people watch the boards of a site.

    Other machines can reach it only with --users, and with HTTPS by a certificate or a proxy.
    `edge-agent web user add NAME --users FILE` adds a user, and asks for the password or reads it from standard input.
    Exit codes: 0 stopped or done, 1 failed, 64 usage, 78 bad configuration.
    """
    if options.action == "user":
        from edge_agent.web.users import change_users

        named = {"is_program": options.token, "force": options.force}
        return change_users(options.step, options.user, options.users, options.role, **named)
    from edge_agent.web.web import web

    return web(options, bus_of(options))


@_cli_command(
    option(
        "folder FOLDER",
        "the folder of `edge-agent web`, given there as --data (default: the one of `edge-agent web`)",
        Path,
        nargs="?",
    ),
    option(
        "--since TIME", "from this date, time or both on (default: 24 hours before --until, or before now)", parse_time
    ),
    option("--until TIME", f"up to this date, time or both; {WHICH_DAY}", parse_time),
    option("--device DEVICE", "only this board, and what concerns all boards"),
    flag("--feedback", "also prints what people answered on the page"),
    JSON,
)
def _history(options: argparse.Namespace) -> int:
    """Prints what happened at a site: changes of levels and alarms, events, and who caused them.

    It reads the journal that `edge-agent web` keeps while it runs. Times are those of this machine's clock.
    Where the folder holds journals of several sites, each entry names its site.
    Exit codes: 0 done, 1 no journal or an unknown board, 64 usage.
    """
    from edge_agent.web.history import history
    from edge_agent.web.journal import default_folder

    times = {"since": options.since, "until": options.until}
    more = {"device": options.device, "has_feedback": options.feedback, "as_json": options.json}
    return history(options.folder or default_folder(), **times, **more)


@_cli_command(
    option("action ACTION", "declare, status", choices=("declare", "status")),
    CONFIG,
    option(
        "--most-waiting N",
        "declare: how many requests may wait; more are refused (default: %(default)s)",
        COUNT,
        default=10_000,
    ),
    option("--username NAME", "declare: a user that may declare queues (default: that of [mqtt])"),
    option("--password-file FILE", "declare: a file that holds that user's password", Path),
    option("--wait S", "status: seconds to listen to boards (default: %(default)s)", SECONDS, default=12.0),
    option(
        "--boards N",
        "status: how many boards the pool should have; with fewer the exit code is 1 (default: %(default)s)",
        COUNT,
        default=1,
    ),
    JSON,
    extra="pool",
)
def _pool(options: argparse.Namespace) -> int:
    """Prepares RabbitMQ for a pool of boards, or shows the state of the pool.

    declare creates the pool's queues and their binding, and changes no existing ones. status shows the queue and the
    boards that answer it, and which task a board lacks.
    Exit codes: 0 done, 1 no broker, no queue, too few boards, or a board lacks a task, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools import pool

    if (options.username is None) != (options.password_file is None):
        return fail("--username and --password-file: each requires the other", EXIT_USAGE)
    config = load_config(options.config, pool.config_faults)
    if options.action == "declare":
        return pool.declare(config, options.most_waiting, options.username, options.password_file)
    return pool.status(config, as_json=options.json, wait_s=options.wait, min_boards=options.boards)


@_cli_command(
    exclusive(
        flag("--broker", "checks only whether the broker accepts this board"),
        option(
            "--config-only FILE",
            "only lists faults and hints of this configuration (default: that of --config), as text; exit code 78 for "
            "faults",
            Path,
            nargs="?",
            default=False,
        ),
        option(
            "--bundle DIR",
            "checks only this bundle, as a switch to it would; with defaults if there is no configuration",
            Path,
        ),
    ),
    JSON,
    bus_options(),
)
def _doctor(options: argparse.Namespace) -> int:
    """Checks whether this board can serve its configuration.

    Each line says what to do. As root it also checks what the service's account may read and write. It loads the model
    in a worker of its own, and asks the canaries of its bundle. Of a running agent it reports state, health and alarms,
    except with --broker.
    With --host it reads no configuration: it checks whether that broker accepts that board, and reports on its agent.
    --config-only and --bundle do not go with it. --json does not go with --config-only.
    Exit codes: 0 good or only warnings, 1 a check failed, 64 usage, 78 bad configuration, with --config-only.
    """
    if options.host is None:
        refuse_without_host(options, "site", "device")
    elif options.config_only is not False or options.bundle is not None:
        raise OptionError("--host: goes neither with --config-only nor with --bundle, which ask no broker")
    if options.config_only is not False:
        if options.json:
            raise OptionError("--json: does not go with --config-only, which prints text")
        return _list_faults(options.config_only or options.config)
    from edge_agent.tools.doctor.doctor import doctor

    bus = None if options.host is None else bus_of(options)
    return doctor(options.config, bus, options.bundle, is_broker_only=options.broker, as_json=options.json)


@_cli_command(
    CONFIG,
    option("--out FILE", "the file to write (default: `edge-diag-<device>-<time>.tar.gz`, here)", Path),
)
def _diag(options: argparse.Namespace) -> int:
    """Collects what support needs in one file without secrets.

    It also works where the configuration is broken, or parts of the board do not answer. As root it is complete.
    Exit codes: 0 written, 1 failed, 64 usage, 78 written, but the configuration has faults.
    """
    from edge_agent.tools.diag import diag

    return diag(options.config, options.out)


@_cli_command(
    option("--bundle DIR", "the bundle to ask (default: the configuration's model)", Path),
    option(
        "--config FILE",
        f"the configuration (default: {DEFAULT_PATH}; with --bundle none, so that neither public_key nor "
        "[engine] applies)",
        Path,
    ),
    extra="engine",
)
def _probe(options: argparse.Namespace) -> int:
    """Checks whether a bundle's model answers here as it did where it was made; like `edge-agent doctor --bundle DIR`.

    It checks the bundle, loads its model in a worker of its own, asks the canaries and lists the answers that differ. A
    running agent is not asked.
    Exit codes: 0 as recorded, 1 an answer differs or the model does not load, 64 usage, 78 bad configuration.
    """
    _say_new_name("doctor --bundle DIR")
    from edge_agent.tools.doctor.model import probe

    return probe(options.config or (None if options.bundle else DEFAULT_PATH), options.bundle)


@_cli_command(
    exclusive(CONFIG, option("--model PATH", "a bundle or a .gguf, with default settings", Path)),
    flag("--quick", "one round instead of several minutes"),
    JSON,
    extra="engine",
)
def _bench(options: argparse.Namespace) -> int:
    """Measures this board with a model.

    Requests per second, tokens per second and latencies of three tasks, memory, start times. Stop the agent's service
    first: two models at once disturb each other.
    Exit codes: 0 done, 1 failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.tools.bench.bench import bench

    return bench(options.config, options.model, is_quick=options.quick, as_json=options.json)


@_cli_command(
    option("task TASK", CLASSIFY),
    option(
        "--labelled FILE",
        'lines of {"input": …, "answer": "label"}; or a .csv with a column answer, and input or other columns',
        Path,
    ),
    option("--unlabelled FILE", "such rows without answers, or one input per line, as JSON or text", Path),
    option("--wordings FILE", "other texts for `system` to try, one per line", Path),
    CONFIG,
    option("--minutes MIN", "how long it may take (default: %(default)s)", MINUTES, default=10.0),
    option(
        "--max-slower PERCENT",
        "how much more time a request may take, in percent (default: %(default)s)",
        PERCENT,
        default=50.0,
    ),
    option("--out FILE", "where to write the keys (default: standard output)", Path),
    FORCE,
    JSON,
    extra="engine",
)
def _tune(options: argparse.Namespace) -> int:
    """Finds what makes a `classify` task right more often, from rows with their right labels.

    It tries examples and corrections of the scores with the configuration's model, within --max-slower. It prints what
    each is worth, and the keys to put into the configuration. Stop the agent's service first: two models at once
    disturb each other.
    Exit codes: 0 done, 1 failed, 64 usage, 78 bad configuration.
    """
    from edge_agent.learning.commands.tune.tune import tune

    return tune(options)


@_cli_command(
    option("--port PORT", "the broker's port on 127.0.0.1 (default: a free one)", PORT),
    option("--work DIR", "folder for the converted model and the agent's state (default: the user's cache)", Path),
    flag("--keep", "keeps it running until Ctrl-C"),
    flag("--web", "with --keep: keeps the pumps running, too, and opens the page on which people see all of it"),
    option("--web-port PORT", "with --web: the page's port on 127.0.0.1 (default: 8780, or a free one)", PORT),
)
def _demo(options: argparse.Namespace) -> int:
    """Runs broker, model, agent and sensors on this machine.

    The model is small and knows only synthetic pump readings.
    Exit codes: 0 every reading was answered, 1 failed, 64 usage.
    """
    from edge_agent.tools.demo.demo import demo

    if options.web and not options.keep:
        raise OptionError("--web: requires --keep")
    if options.web_port and not options.web:
        raise OptionError("--web-port: requires --web")
    if options.web and (missing := missing_extra("web")):
        return fail(missing)
    return demo(options.port, options.work, keep=options.keep, web=options.web, web_port=options.web_port)


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="edge-agent",
        description="An LLM inference node on a factory's MQTT bus.",
        epilog="`edge-agent COMMAND --help` shows the options and exit codes of a command.",
    )
    top.add_argument("--version", action=ShowVersion)
    added = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run, extra, options in _commands:
        about, _, exits = " ".join((run.__doc__ or "").split()).partition(" Exit codes: ")
        first = about.split(". ")[0].rstrip(".")
        command = added.add_parser(
            run.__name__.strip("_").replace("_", "-"),
            help=first[0].lower() + first[1:],
            description=about,
            epilog=f"Exit codes: {exits}",
        )
        command.set_defaults(run=run, extra=extra, parser=command)
        for add_to in options:
            add_to(command)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    options, unknown = parser().parse_known_args(arguments)
    if unknown:
        # By itself, argparse would show the usage of the whole program.
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
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


def _say_new_name(words: str) -> None:
    """Says it, unless a script may be reading standard error."""
    if sys.stderr.isatty():
        print(f"this is now called `edge-agent {words}`", file=sys.stderr)


def _list_faults(path: Path) -> int:
    config = load_config(path)
    needed = [f"{fault}; `run` needs it" for fault in all_file_faults(config)]
    for hint in (*config_hints(config), *needed):
        print(printable(f"{path}: hint: {hint}"), file=sys.stderr)
    print(printable(f"{path}: good"))
    return EXIT_OK


def _print_reply(reply: dict[str, Any]) -> int:
    print(printable_json(reply))
    return EXIT_OK if reply.get("status") == "ok" else EXIT_OTHER_STATUS

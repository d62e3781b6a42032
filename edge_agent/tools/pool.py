"""`edge-agent pool`: declares the queues of a pool in RabbitMQ, and shows the state of the pool."""

from pathlib import Path

from edge_agent.core.config import Config
from edge_agent.core.terminal import UNKNOWN, StatusLine, aligned, fail
from edge_agent.core.wording import printable, printable_json
from edge_agent.mqtt.credentials import credential_faults, read_secret
from edge_agent.pool import amqp
from edge_agent.pool.facts import QueueFigures
from edge_agent.pool.queues import EXCHANGE, declare_queues, queues_of, read_figures
from edge_agent.tools.watch.site import Document, Row, number_at, text_at, texts_at
from edge_agent.tools.watch.watch import CONNECT_S, Feed


def config_faults(config: Config) -> list[str]:
    """Why neither command can work with this configuration."""
    missing = ["pool: required: a table with the pool's `name`"] if config.pool is None else []
    return [*missing, *credential_faults(config.mqtt)]


def declare(config: Config, max_waiting: int, username: str | None, password_file: Path | None) -> int:
    """Declares queues and binding as this user, or as the board; returns the exit code."""
    queues, account = queues_of(config), None
    try:
        if username is not None and password_file is not None:
            account = (username, read_secret(password_file))
    except (OSError, ValueError) as error:
        return fail(f"--password-file: {password_file} cannot be read: {error}")
    try:
        with amqp.channel_at_first_host(config, account=account) as (channel, _):
            declare_queues(channel, queues, max_waiting)
    except amqp.PoolError as error:
        needs_rights = "ACCESS_REFUSED" in str(error)
        advice = (
            "name an account that may create queues: --username and --password-file" if needs_rights else error.advice
        )
        return fail(f"the pool cannot be declared: {error}; {advice}")
    print(printable(f"{queues.requests}: declared, bound to {EXCHANGE} as {queues.binding}"))
    return 0


def status(config: Config, *, as_json: bool, wait_s: float, min_boards: int) -> int:
    """Shows the queue and the boards; returns the exit code."""
    assert config.pool is not None
    queues = queues_of(config)
    try:
        with amqp.channel_at_first_host(config) as (channel, _):
            figures = read_figures(channel, queues)
    except amqp.PoolError as error:
        return fail(f"the pool's queue cannot be read: {error}; {error.advice}")
    rows, trouble = _listen(config, wait_s, figures.places)
    if trouble:
        return fail(trouble)
    all_tasks = {task for row in rows for task in texts_at(row.info, "tasks")}
    boards = [_board(row, all_tasks) for row in rows]
    if as_json:
        queue = {"waiting": figures.waiting, "places_of_all": figures.places, "dead_letters": figures.dead}
        print(printable_json({"pool": config.pool.name, "queue": queues.requests, **queue, "boards": boards}))
    else:
        _print(config.pool.name, figures, boards)
    if len(boards) < min_boards:
        hint = "each reports every 10 s, unless its health.interval_s is different; --wait S listens longer"
        return fail(f"{len(boards)} of {min_boards} boards were heard within {wait_s:g} s: {hint}")
    return 1 if any(board["lacks"] for board in boards) else 0


def _listen(config: Config, wait_s: float, places: int) -> tuple[list[Row], str | None]:
    """The pool's boards, and why none could be heard. Ends early when they have as many places as the queue."""
    assert config.pool is not None
    feed, line = Feed(config.mqtt, config.device.site), StatusLine()
    boards: list[Row] = []
    with feed.client:
        feed.client.connect(CONNECT_S)
        left_s = wait_s
        while feed.client.is_connected and left_s > 0:
            line.say(f"listening to boards: {len(boards)} heard, {left_s:.0f} s left")
            feed.receive(min(0.5, left_s))
            left_s -= 0.5
            boards = [row for row in feed.rows if text_at(row.health, "pool.name") == config.pool.name]
            is_complete = sum(number_at(row.health, "pool.places") or 0 for row in boards) >= places > 0
            if is_complete and all(row.info for row in boards):
                break
        line.clear()
        return boards, feed.trouble


_HEALTH_KEYS = ("places", "per_minute", "waited_ms", "claimed_total", "given_back_total", "repeated_total")
_HEADER = ("BOARD", "STATE", "PLACES", "A MINUTE", "WAITED MS", "TAKEN", "GIVEN BACK", "AGAIN", "MODEL", "LACKS")


def _board(row: Row, all_tasks: set[str]) -> Document:
    tasks = texts_at(row.info, "tasks")
    return {
        "device": row.device,
        "level": row.level.name.lower(),
        "model": row.model,
        "sha256": text_at(row.info, "models.0.sha256"),
        "tasks": tasks,
        "lacks": sorted(all_tasks - {*tasks}) if row.info else [],
        **{key: number_at(row.health, f"pool.{key}") for key in _HEALTH_KEYS},
    }


def _print(name: str, figures: QueueFigures, boards: list[Document]) -> None:
    dead = f", {figures.dead} dead letters" if figures.dead else ""
    print(printable(f"pool {name}: {figures.waiting} requests wait, the boards have {figures.places} places{dead}"))
    for text in aligned([_HEADER, *map(_cells, boards)], left=2) if boards else ():
        print(printable(text))


def _cells(board: Document) -> tuple[str, ...]:
    figures = (UNKNOWN if board[key] is None else f"{board[key]:.0f}" for key in _HEALTH_KEYS)
    model = " ".join(filter(None, (board["model"], (board["sha256"] or "")[:8]))) or UNKNOWN
    lacks = ", ".join(board["lacks"]) or ("nothing" if board["tasks"] else "?")
    return board["device"], board["level"], *figures, model, lacks

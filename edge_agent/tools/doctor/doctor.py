"""`edge-agent doctor`: whether this board can serve this configuration. A check says what it found and what to do."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.monitor import read_with_rates
from edge_agent.core.config import Config, DeviceConfig, ModelConfig
from edge_agent.core.config_file import ConfigError
from edge_agent.core.extras import missing_extra
from edge_agent.core.pipe import ECHO_MODEL
from edge_agent.core.state_lock import is_locked
from edge_agent.core.wording import printable
from edge_agent.loader import DEFAULT_PATH, load_config, signing_key_faults
from edge_agent.models.record import revocations_hint
from edge_agent.tools.bus import Bus
from edge_agent.tools.doctor import system
from edge_agent.tools.doctor.broker import broker_checks
from edge_agent.tools.doctor.check import Check, Verdict, failed, good, skipped, warning
from edge_agent.tools.doctor.model import model_checks
from edge_agent.tools.doctor.signals import signals_checks
from edge_agent.tools.programs import is_service_active


def doctor(config_path: Path, bus: Bus | None, bundle: Path | None, *, is_broker_only: bool, as_json: bool) -> int:
    """Prints the report; returns 1 if a check failed. If there is a bus or a bundle, only that is checked."""
    found: list[Check] = []
    done = checks(config_path, bundle, is_broker_only=is_broker_only) if bus is None else bus_checks(bus)
    for check in done:
        found.append(check)
        if not as_json:
            print(line(check), flush=True)
    if as_json:
        print(json.dumps({"version": __version__, "checks": [asdict(check) for check in found]}, indent=2))
    return 1 if any(check.verdict is Verdict.FAILED for check in found) else 0


def line(check: Check) -> str:
    """A check as it is printed, with the advice on a line of its own."""
    text = f"{check.verdict:8} {check.name:14} {printable(check.found)}"
    return f"{text}\n{'':23} → {printable(check.advice)}" if check.advice else text


def bus_checks(bus: Bus) -> Iterator[Check]:
    """What the board would find at this broker. Its service may run, elsewhere."""
    device = DeviceConfig(site=bus.site, id=bus.device)
    config = Config(device=device, mqtt=bus.mqtt, models={"default": ModelConfig(path=Path(ECHO_MODEL))})
    is_own_account = bus.mqtt.username in (None, bus.device)
    yield from broker_checks(config, is_running=True, reports_agent=True, is_own_account=is_own_account)


def _broker_and_pool_checks(config: Config, *, is_running: bool, reports_agent: bool) -> Iterator[Check]:
    """The broker, and the pool if there is one."""
    yield from broker_checks(config, is_running=is_running, reports_agent=reports_agent)
    if config.pool is not None:
        yield pool_check(config)


def checks(
    config_path: Path, bundle: Path | None = None, *, is_broker_only: bool = False, not_loading: str | None = None
) -> Iterator[Check]:
    """Yields each check as it is done, or only those of a bundle. `not_loading` says why no model is to be loaded."""
    try:
        config = load_config(config_path)
        yield good("configuration", str(config_path))
    except ConfigError as error:
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        if bundle is None or config_path != DEFAULT_PATH or not is_missing:
            command = f"edge-agent doctor --config-only {shlex.quote(str(config_path))}"
            advice = f"correct the file; `{command}` lists the faults one by one"
            if is_missing:
                advice = "name the configuration with --config FILE"
            if isinstance(error.__cause__, PermissionError):
                advice = "run it as root, with sudo: only root and the service may read the configuration"
            yield failed("configuration", f"{config_path}: " + "; ".join(error.faults), advice)
            return
        config = Config(device=DeviceConfig(site="-", id="-"), models={"default": ModelConfig(path=bundle)})
        yield skipped("configuration", f"{config_path} does not exist, so the bundle is checked with defaults")
    root = config.board.root
    board = Board(root, config.models_dir)
    is_running = is_service_active() or is_locked(config.state_dir)
    if bundle is None and (hint := revocations_hint(config)):
        yield warning("revocations", hint, "copy your newest list, its signature and the keys to the board")
    if is_broker_only:
        # A board must be able to get another configuration whatever its agent says.
        yield from _broker_and_pool_checks(config, is_running=is_running, reports_agent=False)
        return
    reading = read_with_rates(board)
    if bundle is None:
        yield system.identity(board)
        yield system.sensors(reading)
        yield system.memory_limit(root)
        yield system.clock(system.is_clock_synchronized() if root == Path("/") else None)
        yield system.disk(config.models_dir, reading)
        yield system.state(config.state_dir)
        yield system.files(config, config_path)
        yield from _broker_and_pool_checks(config, is_running=is_running, reports_agent=True)
        if config.signals:
            yield from signals_checks(config)
        if faults := signing_key_faults(config):
            yield failed("commands", "; ".join(faults), "put the key that signs commands there, or remove the setting")
    available_mb = reading.memory.available_mb
    yield from model_checks(config, board, available_mb, bundle, is_running=is_running, not_loading=not_loading)


def pool_check(config: Config) -> Check:
    """The pool's queue at the first host that accepts the board by AMQP."""
    if missing := missing_extra("pool"):
        return failed("pool", missing, "install the extra, or leave [pool] out")
    # pika is an extra.
    from edge_agent.pool.amqp import PoolError, channel_at_first_host  # noqa: PLC0415
    from edge_agent.pool.queues import queues_of, read_figures  # noqa: PLC0415

    queues = queues_of(config)
    try:
        with channel_at_first_host(config) as (channel, where):
            figures = read_figures(channel, queues)
    except PoolError as error:
        return failed("pool", str(error), error.advice)
    found = f"{figures.waiting} requests wait, the boards have {figures.places} places"
    return good("pool", f"{queues.requests} at {where}: {found}")

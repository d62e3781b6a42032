"""What the board tells of itself, what it keeps to itself and why, and what follows for the agent."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from edge_agent.board.reading import BoardReading, Scope, ThrottleCause
from edge_agent.tools.doctor.check import Check, Verdict

_CLOSED = {os.strerror(errno.EACCES), os.strerror(errno.EPERM)}
_ASKS_FIRMWARE = {"get_throttled", "pmic_read_adc"}
_COUNTS_ENERGY = re.compile(r".*\(intel-rapl:.*\)|intel-rapl:.*")
_OF = {
    Scope.BOARD: "of the board",
    Scope.MODULE: "of the module",
    Scope.RAILS: "of some rails",
    Scope.SOC: "of the SoC",
}


def sensors(reading: BoardReading) -> Check:
    """Which readings there are. A sensor that is only switched off is told, and is nothing to worry about."""
    failed = {name: why for name, why in reading.errors.items() if name not in reading.offline or why in _CLOSED}
    silent = {name: why for name, why in reading.errors.items() if name not in failed}
    found = [_temperature(reading), _throttling(reading), _power(reading), _fan(reading)]
    found += [f"{word}: {_listed(names)}" for word, names in (("failed", failed), ("off", silent)) if names]
    advice = list(_advice(reading, failed))
    is_blind = reading.thermal.soc_c is None and not reading.throttle.sources and not failed
    verdict = Verdict.WARNING if advice else Verdict.SKIPPED if is_blind else Verdict.GOOD
    return Check(name="sensors", verdict=verdict, found="; ".join(found), advice="; ".join(advice) or None)


def memory_limit(reading: BoardReading) -> Check:
    """Whether systemd can hold the agent to a limit."""
    match reading.memory.has_cgroup_controller:
        case None:
            return Check(name="memory limit", verdict=Verdict.SKIPPED, found="the kernel does not say")
        case True:
            return Check(name="memory limit", verdict=Verdict.GOOD, found="systemd can set one")
    return Check(
        name="memory limit",
        verdict=Verdict.WARNING,
        found="systemd can set none: the kernel's memory cgroup is off",
        advice="add cgroup_enable=memory to the kernel's command line and reboot (Raspberry Pi: to the one line of "
        "/boot/firmware/cmdline.txt); until then MemoryMax= and MemoryHigh= do nothing",
    )


def _temperature(reading: BoardReading) -> str:
    thermal = reading.thermal
    if thermal.soc_c is None:
        return "no temperature"
    limit = "no known limit" if thermal.limit_c is None else f"a limit of {thermal.limit_c:g} °C"
    return f"SoC {thermal.soc_c:.1f} °C with {limit}"


def _throttling(reading: BoardReading) -> str:
    return f"throttling told by {', '.join(reading.throttle.sources) or 'nobody'}"


def _power(reading: BoardReading) -> str:
    power = reading.power
    if power.watts is None:
        return "power not measured"
    return f"{power.watts:.1f} W {_OF[power.scope]} by {power.source}"


def _fan(reading: BoardReading) -> str:
    return "no fan speed" if reading.thermal.fan_rpm is None else f"fan {reading.thermal.fan_rpm:.0f} rpm"


def _listed(errors: dict[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in errors.items())


def _advice(reading: BoardReading, failed: dict[str, str]) -> Iterator[str]:
    closed = {name for name, why in failed.items() if why in _CLOSED}
    if firmware := closed & _ASKS_FIRMWARE:
        yield (
            f"{', '.join(sorted(firmware))}: only root and the group video may ask the firmware through /dev/vcio; "
            "add this account to it (the unit's has it: SupplementaryGroups=video)"
        )
    if energy := sorted(name for name in closed if _COUNTS_ENERGY.fullmatch(name)):
        yield (
            f"{', '.join(energy)}: only root may read the energy counters; for power and joules per answer let the "
            "account read energy_uj below /sys/class/powercap, anew at each boot"
        )
    others = sorted(failed.keys() - firmware - set(energy))
    if others:
        yield f"{', '.join(others)}: the kernel's log (dmesg) may tell why; the agent goes on without"
    if reading.throttle.now and ThrottleCause.THERMAL in reading.throttle.causes:
        yield "the board is slowed down for its heat: a fan, a larger heat sink or a lower clock (arm_freq=) helps"
    if reading.throttle.undervoltage_since_boot:
        yield "the supply voltage was too low since the last boot: use a stronger supply and a shorter cable"

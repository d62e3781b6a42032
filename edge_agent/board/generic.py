"""Readings that any Linux board has, below a movable root: `/` on a board, a recorded tree in a test."""

from __future__ import annotations

import math
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# The zone that stands for the SoC, best first; `x86_pkg_temp` is a PC's.
_SOC_ZONES = ("cpu-thermal", "package-thermal", "soc-thermal", "tj-thermal", "x86_pkg_temp", "acpitz")
_MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardReading:
    """What the board says of itself now. zones: °C by name; limit_c: where the kernel begins to throttle."""

    model: str | None
    soc_c: float | None
    limit_c: float | None
    zones: dict[str, float]
    load1: float | None
    cpu_percent: float | None
    freq_mhz: float | None
    freq_max_mhz: float | None
    memory_total_mb: float | None
    memory_available_mb: float | None
    swap_used_mb: float | None
    disk_free_mb: float | None
    errors: dict[str, str] = field(default_factory=dict)


class GenericBoard:
    """Reads below `root`. Each reading fails alone: its fault goes to `errors`, the others stay."""

    def __init__(self, root: Path, disk: Path) -> None:
        self._root = root
        self._is_own_machine = root == Path("/")
        self._disk = disk
        if self._is_own_machine:
            psutil.cpu_percent()  # the first call only starts the measurement

    def read(self) -> BoardReading:
        errors: dict[str, str] = {}
        zones, limits = self._zones(errors)
        soc_zone = next((name for name in _SOC_ZONES if name in zones), None)
        memory = self._meminfo(errors)
        policy = self._root / "sys/devices/system/cpu/cpufreq/policy0"
        total, swap_total, swap_free = memory.get("MemTotal"), memory.get("SwapTotal"), memory.get("SwapFree")
        return BoardReading(
            model=self.model(),
            soc_c=zones[soc_zone] if soc_zone else None,
            limit_c=limits.get(soc_zone) if soc_zone else None,
            zones=zones,
            load1=self._load(errors),
            cpu_percent=psutil.cpu_percent() if self._is_own_machine else None,
            freq_mhz=_scaled(self._number(policy / "scaling_cur_freq", errors), 1000),
            freq_max_mhz=_scaled(self._number(policy / "cpuinfo_max_freq", errors), 1000),
            memory_total_mb=total,
            memory_available_mb=memory.get("MemAvailable"),
            swap_used_mb=None if swap_total is None or swap_free is None else round(swap_total - swap_free, 1),
            disk_free_mb=self._disk_free(errors),
            errors=errors,
        )

    def model(self) -> str | None:
        """The board's name from its device tree; None on machines without one."""
        try:
            text = (self._root / "proc/device-tree/model").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return text.strip("\0\n ") or None

    def cpu_features(self) -> list[str]:
        """The flags of the first core in /proc/cpuinfo, sorted."""
        try:
            text = (self._root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return sorted(value.split())
        return []

    def _zones(self, errors: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
        zones: dict[str, float] = {}
        limits: dict[str, float] = {}
        for folder in sorted((self._root / "sys/class/thermal").glob("thermal_zone*")):
            try:
                name = (folder / "type").read_text(encoding="utf-8").strip()
                zones[name] = int((folder / "temp").read_text(encoding="utf-8")) / 1000
            except (OSError, ValueError) as error:
                errors[folder.name] = _reason(error)
                continue
            for trip in folder.glob("trip_point_*_type"):
                try:
                    is_passive = trip.read_text(encoding="utf-8").strip() == "passive"
                    at_c = int(trip.with_name(trip.name.replace("_type", "_temp")).read_text(encoding="utf-8")) / 1000
                except (OSError, ValueError) as error:
                    errors[f"{folder.name}/{trip.name}"] = _reason(error)
                    continue
                if is_passive and at_c > 0:
                    limits[name] = max(at_c, limits.get(name, at_c))
        return zones, limits

    def _meminfo(self, errors: dict[str, str]) -> dict[str, float]:
        values: dict[str, float] = {}
        try:
            for line in (self._root / "proc/meminfo").read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(":")
                if value.endswith(" kB"):
                    values[name] = round(int(value[:-3]) * 1024 / _MB, 1)
        except (OSError, ValueError) as error:
            errors["meminfo"] = _reason(error)
        return values

    def _load(self, errors: dict[str, str]) -> float | None:
        try:
            return _finite((self._root / "proc/loadavg").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError) as error:
            errors["loadavg"] = _reason(error)
            return None

    def _number(self, path: Path, errors: dict[str, str]) -> float | None:
        try:
            return _finite(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            errors[path.name] = _reason(error)
            return None

    def _disk_free(self, errors: dict[str, str]) -> float | None:
        folder = next((p for p in (self._disk, *self._disk.parents) if p.is_dir()), Path("/"))
        try:
            return round(shutil.disk_usage(folder).free / _MB, 1)
        except OSError as error:
            errors["disk"] = _reason(error)
            return None


def resident_mb(pid: int | None = None) -> float | None:
    """Resident memory of a process (default: this one) in MB; None once it is gone."""
    try:
        return round(psutil.Process(pid).memory_info().rss / _MB, 1)
    except psutil.Error:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Resident memory by what is behind it: nothing, or a file whose pages the kernel may drop and read again."""

    anonymous_mib: float
    file_mib: float


def process_memory(pid: int) -> ProcessMemory | None:
    """None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    kib = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in text.splitlines())
        if name in ("RssAnon", "RssFile")
    }
    if len(kib) < 2:
        return None
    return ProcessMemory(anonymous_mib=round(kib["RssAnon"] / 1024, 1), file_mib=round(kib["RssFile"] / 1024, 1))


def machine() -> str:
    """The instruction set, as uname names it: aarch64, x86_64, …"""
    return platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # which JSON cannot tell
        raise ValueError(f"not a number: {text.strip()!r}")
    return value


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else f"nonsense: {error}"

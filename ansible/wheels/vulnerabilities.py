"""Known vulnerabilities of the packages in an SBOM, without a network: `vulnerabilities.py SBOM EXPORT…`.

EXPORT is one of OSV's files all.zip, a folder of its records, or one record. Looked up are Python packages and the Rust
crates in them; what else the SBOM lists, such as llama.cpp, is counted. Exit codes: 0 none known, 1 some, 2 unknown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

# OSV's names of ecosystems, by those of package URLs.
_ECOSYSTEMS = {"pypi": "PyPI", "cargo": "crates.io"}
# An ecosystem and a name.
Package = tuple[str, NormalizedName]


def main() -> int:
    parser = argparse.ArgumentParser(prog="vulnerabilities.py", description=__doc__)
    parser.add_argument("sbom", type=Path, help="CycloneDX, JSON")
    parser.add_argument(
        "exports", nargs="+", type=Path, metavar="EXPORT", help="all.zip, a folder of records, or a record"
    )
    given = parser.parse_args()
    hits, counts, newest = set[str](), Counter[str](), defaultdict[str, str](str)
    try:
        with _naming(given.sbom, "a CycloneDX SBOM"):
            packages, others = packages_of(_object(given.sbom.read_bytes()))
        for record in (record for export in given.exports for record in records(export)):
            for entry in record.get("affected", []):
                ecosystem = entry.get("package", {}).get("ecosystem")
                counts[ecosystem] += 1
                newest[ecosystem] = max(newest[ecosystem], record.get("modified", ""))
                if ecosystem in _ECOSYSTEMS.values() and "withdrawn" not in record:
                    hits.update(hits_of(record, entry, packages))
    except (OSError, ValueError) as error:
        parser.error(f"a file cannot be read: {error}")
    if not packages:
        parser.error(f"{given.sbom}: lists no package of {' or '.join(_ECOSYSTEMS.values())}")
    print(*sorted(hits), sep="\n", end="\n" if hits else "")
    sizes = Counter(ecosystem for (ecosystem, _), versions in packages.items() for _ in versions)
    for ecosystem, size in sorted(sizes.items()):
        looked_up = f"{counts[ecosystem]} records, the newest of {newest[ecosystem]}"
        print(f"{ecosystem}: {size} packages; {looked_up if counts[ecosystem] else 'not looked up'}", file=sys.stderr)
    print(f"others: {others} components; not looked up", file=sys.stderr)
    missing = [ecosystem for ecosystem in sizes if not counts[ecosystem]]
    if missing and not hits:
        # Otherwise a missing file would look like good news.
        parser.error(f"the exports have no record of {', '.join(missing)}")
    return 1 if hits else 0


def packages_of(document: Mapping[str, Any]) -> tuple[dict[Package, set[str]], int]:
    """The versions of each package, and how many other components have a package URL."""
    packages, others = defaultdict[Package, set[str]](set), 0
    waiting = list(document.get("components", []))
    while waiting:
        component = waiting.pop()
        waiting += component.get("components", [])
        kind = component.get("purl", "").removeprefix("pkg:").partition("/")[0]
        if kind in _ECOSYSTEMS:
            package = _ECOSYSTEMS[kind], canonicalize_name(component["name"])
            # A crate's build metadata is no part of its order (SemVer 10).
            packages[package].add(component["version"].partition("+")[0] if kind == "cargo" else component["version"])
        else:
            others += bool(kind)
    return dict(packages), others


def records(export: Path) -> Iterator[dict[str, Any]]:
    """Raises OSError, and ValueError with the file's name."""
    with _naming(export, "an export of OSV"):
        if export.is_dir():
            for path in sorted(export.rglob("*.json")):
                yield _object(path.read_bytes())
        elif export.suffix == ".zip":
            with ZipFile(export) as archive:
                for name in archive.namelist():
                    yield _object(archive.read(name))
        else:
            yield _object(export.read_bytes())


@contextmanager
def _naming(path: Path, kind: str) -> Iterator[None]:
    """Makes errors about the content say which file should be what."""
    try:
        yield
    except (ValueError, BadZipFile) as error:
        raise ValueError(f"{path}: should be {kind}: {error}") from error


def _object(text: bytes) -> dict[str, Any]:
    """Raises ValueError for what is not a JSON object."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"should be a JSON object (got {type(found).__name__})")  # noqa: TRY004 - of bytes, not of code
    return found


def hits_of(record: Mapping[str, Any], entry: Mapping[str, Any], packages: Mapping[Package, set[str]]) -> Iterator[str]:
    """A line for each version that the record affects, where `entry` is what it says of one package."""
    ecosystem, name = entry["package"]["ecosystem"], canonicalize_name(entry["package"]["name"])
    for version in packages.get((ecosystem, name), ()):
        if is_affected(version, entry):
            fixed = sorted({event["fixed"] for events in _ranges(entry) for event in events if "fixed" in event})
            remedy = f"fixed in {', '.join(fixed)}" if fixed else "no version is known to be fixed"
            ids = ", ".join([record["id"], *record.get("aliases", [])])
            yield f"{ecosystem} {name} {version}: {ids}: {record.get('summary', 'no summary')}; {remedy}"


def is_affected(text: str, entry: Mapping[str, Any]) -> bool:
    """Whether the list of versions or a range has the version. What cannot be compared counts as affected."""
    try:
        version = Version(text)
        listed = any(version == Version(one) for one in entry.get("versions", []) if _is_version(one))
        return listed or any(_is_within(version, events) for events in _ranges(entry))
    except InvalidVersion:
        return True


def _ranges(entry: Mapping[str, Any]) -> list[list[dict[str, str]]]:
    return [one["events"] for one in entry.get("ranges", []) if one["type"] in ("ECOSYSTEM", "SEMVER")]


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _is_within(version: Version, events: list[dict[str, str]]) -> bool:
    """Evaluates a range as OSV's specification does, in which the last event before or at the version decides."""
    within = False
    for kind, text in sorted((pair for event in events for pair in event.items()), key=lambda pair: Version(pair[1])):
        if kind == "introduced" and version >= Version(text):
            within = True
        elif (kind == "fixed" and version >= Version(text)) or (kind == "last_affected" and version > Version(text)):
            within = False
    return within


if __name__ == "__main__":
    raise SystemExit(main())

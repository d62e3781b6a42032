"""Which boards a site should have, from an Ansible inventory or a plain list."""

import re
from pathlib import Path

from edge_agent.core.topics import NAME_PATTERN
from edge_agent.core.wording import shown
from edge_agent.tools.bus import OptionError

_RANGE = re.compile(r"\[(\d+):(\d+)\]")
_MAX_BOARDS = 10_000


def expected_of(path: Path | None, site: str) -> list[str]:
    """The boards that `--expect` names; none without it. Raises OptionError."""
    try:
        return [] if path is None else expected_boards(path, site)
    except (OSError, ValueError) as error:
        raise OptionError(f"--expect: {path}: {error}") from error


def expected_boards(path: Path, site: str) -> list[str]:
    """The boards that the file names for the site. Raises OSError; ValueError with the reason.

    Of an inventory in YAML, these are the hosts of the group with the site's name, or all hosts if there is no such
    group. Any other file has a name per line.
    """
    lines = [line.split(" #")[0].rstrip() for line in path.read_text("utf-8-sig").splitlines()]
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#") and line != "---"]
    is_inventory = any(line.strip() == "hosts:" for line in lines)
    names = _hosts(lines, site) if is_inventory else [line.strip() for line in lines]
    boards = list(dict.fromkeys(board for name in names for board in _expanded(name)))
    if wrong := next((board for board in boards if not re.fullmatch(NAME_PATTERN, board)), None):
        raise ValueError(f"should name boards, each by 1 to 64 letters, digits, _ or - (got {shown(wrong)})")
    if not 1 <= len(boards) <= _MAX_BOARDS:
        raise ValueError(f"should name 1 to {_MAX_BOARDS} boards of the site {site} (got {len(boards)})")
    return boards


def _hosts(lines: list[str], site: str) -> list[str]:
    """The keys directly below each `hosts:`. Groups and hosts are nested by indentation alone."""
    # The open keys, each with its indentation, from the outermost one.
    parents: list[tuple[int, str]] = []
    found: list[tuple[str, list[str]]] = []
    children: list[tuple[str, str]] = []
    has_group = False
    for line in lines:
        indent, key = len(line) - len(line.lstrip()), line.strip().split(": ")[0].removesuffix(":").strip("'\"")
        parents = [parent for parent in parents if parent[0] < indent]
        groups = [name for _, name in parents]
        if groups[-1:] == ["hosts"]:
            found.append((key, groups))
        elif re.match(r"hosts: *{ *[^ }]", line.strip()):
            raise ValueError(f"should have a line for each host below `hosts:` (got {shown(line.strip())})")
        if groups[-1:] == ["children"]:
            children.append((groups[-2] if len(groups) > 1 else "", key))
        has_group |= key == site and groups[-1:] in ([], ["children"])
        parents.append((indent, key))
    if not has_group:
        return [host for host, _ in found]
    # A child group may have its hosts elsewhere in the file.
    of_site = {site}
    while more := {child for parent, child in children if parent in of_site} - of_site:
        of_site |= more
    return [host for host, groups in found if not of_site.isdisjoint(groups)]


def _expanded(name: str) -> list[str]:
    """The names that Ansible's `press-[01:50]` stands for."""
    bounds = _RANGE.search(name)
    if bounds is None:
        return [name]
    first, last = bounds.groups()
    numbers = range(int(first), min(int(last), int(first) + _MAX_BOARDS) + 1)
    if not numbers:
        raise ValueError(f"should count upwards in a range (got {shown(name)})")
    return [f"{name[: bounds.start()]}{number:0{len(first)}d}{name[bounds.end() :]}" for number in numbers]

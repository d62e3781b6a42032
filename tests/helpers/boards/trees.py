"""Trees of /sys and /proc, and what makes them.

A tree is text, with a file per board. `[folder]` is followed by a line for each file in it: `name = content`, `name |`
with the indented lines of its content below, or `name ! ERRNO` if reading fails with that. `\\0` is NUL, `#` begins a
comment.
"""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.board import files
from edge_agent.board.board import Board
from edge_agent.board.monitor import Monitor
from edge_agent.board.reading import BoardReading

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.tree"))


@dataclass(slots=True)
class Tree:
    """Files by path relative to the root. What cannot be read has an errno instead of content."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def write(self, root: Path) -> None:
        for folder in self.folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, content in {**self.files, **dict.fromkeys(self.faults, b"")}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def inject(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        """Makes reads of the files with faults fail, whatever reads files of the board."""
        read = files.read_bytes

        def read_bytes(path: Path) -> bytes:
            number = self.faults.get(str(path.relative_to(root)))
            if number is not None:
                raise OSError(number, os.strerror(number), str(path))
            return read(path)

        patch.setattr(files, "read_bytes", read_bytes)


def read(tree: Tree, root: Path, how: Callable[[Board], BoardReading] = Board.read) -> BoardReading:
    """The first reading of a board like this."""
    tree.write(root)
    with pytest.MonkeyPatch.context() as patch:
        tree.inject(patch, root)
        return how(Board(root, root))


def load(name: str) -> Tree:
    """The tree of a board of NAMES."""
    tree, folder, block = Tree(), "", ""
    for line in (FOLDER / f"{name}.tree").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            tree.files[block] += line[2:].encode() + b"\n"
        elif line.startswith("["):
            folder = line[1:-1]
            tree.folders.add(folder)
        elif line and not line.startswith("#"):
            file, kind, content = (line + " ").split(" ", 2)
            path = os.path.normpath(f"{folder}/{file}")
            match kind:
                case "=":
                    tree.files[path] = content.strip().replace("\\0", "\0").encode() + b"\n" * ("\\0" not in content)
                case "|":
                    block, tree.files[path] = path, b""
                case "!":
                    tree.faults[path] = getattr(errno, content.strip())
                case _:
                    raise ValueError(f"{name}.tree: neither =, | nor !: {line!r}")
    return tree


def passes(root: Path) -> Callable[[], BoardReading]:
    """A monitor's passes over the board in this root one by one, in the calling thread."""
    one = Monitor(Board(root, root), lambda _: None)
    one._thread = threading.current_thread()

    def read() -> BoardReading:
        reading = one._read()
        assert reading is not None
        return reading

    return read

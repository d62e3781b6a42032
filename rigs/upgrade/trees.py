"""The two source trees, and how their programs start."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.machine import ROOT


@dataclass(frozen=True)
class Tree:
    """A source tree, run by this interpreter with the packages that are installed here."""

    name: str
    folder: Path

    def __str__(self) -> str:
        return self.name

    def program(self, module: str = "edge_agent") -> tuple[str, ...]:
        """The words that start one of its modules."""
        # The option `-C` is needed because the working folder is the first place where Python looks for modules.
        return "env", "-C", str(self.folder), f"PYTHONPATH={self.folder}", sys.executable, "-m", module

    def run(self, *words: str | Path, module: str = "edge_agent") -> subprocess.CompletedProcess[str]:
        command = [*self.program(module), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def convert(self, bundle: Path, *words: str | Path) -> Path:
        """A bundle of the demonstration's checkpoint by its converter."""
        options = ("--out", bundle, "--type", "q8_0", "--name", "pump-demo", *words)
        done = self.run(checkpoint_folder(), *options, module="convert")
        assert done.returncode == 0, done.stderr
        return bundle


OLD, NEW = Tree("old", Path(os.environ["EDGE_AGENT_OLD"])), Tree("new", ROOT)

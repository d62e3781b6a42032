"""Upstream's converter, taken from the llama-cpp-python source package and run in an environment of its own."""

import ast
import os
import re
from pathlib import Path

from tests.helpers.llama_sources import fetch_sources, make_environment, run_program

# Upstream's own pins (its requirements folder) where they matter for the result; torch only carries bytes.
REQUIREMENTS = (
    "torch",
    "transformers==4.57.6",
    "sentencepiece>=0.1.98,<0.3",
    "protobuf>=4.21,<5",
    "numpy>=2.2",
    "pyyaml",
)


class Upstream:
    """The converter of the llama.cpp that the installed binding vendors; `work` keeps what was installed."""

    def __init__(self, work: Path, python: Path | None) -> None:
        self._root = fetch_sources(work) / "vendor" / "llama.cpp"
        self._python = python if python is not None else make_environment(work / "venv", REQUIREMENTS)

    def command(self, checkpoint: Path, target: Path, out_type: str) -> tuple[list[str], dict[str, str]]:
        """What converts to the GGUF file `target`, and the environment that it takes."""
        script = self._root / "convert_hf_to_gguf.py"
        command = [str(self._python), str(script), "--outtype", out_type, "--outfile", str(target), str(checkpoint)]
        gguf = {"PYTHONPATH": str(self._root / "gguf-py")}
        return command, os.environ | gguf | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

    def convert(self, checkpoint: Path, target: Path, out_type: str, *, vocab_only: bool = False) -> None:
        """Write the GGUF file `target`; raises with the converter's last output if it fails."""
        command, environment = self.command(checkpoint, target, out_type)
        run_program(command + ["--vocab-only"] * vocab_only, environment)

    def sample_text(self) -> str:
        """The text that upstream tokenizes to recognise a pre-tokenizer."""
        match = re.search(r"^ +chktxt = ('.*')$", self._recogniser(), re.MULTILINE)
        assert match is not None
        text = ast.literal_eval(match[1])
        assert isinstance(text, str)
        return text

    def sample_hashes(self, pre: str) -> list[str]:
        """Hashes of the sample's token ids that upstream takes for `pre`."""
        found: list[str] = re.findall(
            rf'chkhsh == "([0-9a-f]{{64}})":\n.*\n +res = "{re.escape(pre)}"', self._recogniser()
        )
        return found

    def _recogniser(self) -> str:
        return (self._root / "conversion" / "base.py").read_text("utf-8")

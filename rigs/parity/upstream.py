"""Upstream's converter, taken from the llama-cpp-python source package and run in an environment of its own."""

import ast
import hashlib
import os
import re
from pathlib import Path

import llama_cpp

from rigs.llama_sources import fetch_sources, make_environment, run_program
from tests.convert.native_quantizer import silence_llama_cpp

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

    def __init__(self, work: Path) -> None:
        self._root = fetch_sources(work) / "vendor" / "llama.cpp"
        self._python = make_environment(work / "venv", REQUIREMENTS)

    def convert(self, checkpoint: Path, target: Path, out_type: str, *, vocab_only: bool = False) -> None:
        """Writes the GGUF file `target`. Raises with the converter's last output if it fails."""
        script = self._root / "convert_hf_to_gguf.py"
        command = [str(self._python), str(script), "--outtype", out_type, "--outfile", str(target), str(checkpoint)]
        own = {"PYTHONPATH": str(self._root / "gguf-py"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        run_program(command + ["--vocab-only"] * vocab_only, os.environ | own)

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


def sample_hash(model: Path, text: str) -> str:
    """Hex SHA-256 of the printed list of token ids of `text`, as upstream's converter hashes it."""
    silence_llama_cpp()
    vocabulary = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    try:
        ids = vocabulary.tokenize(text.encode("utf-8"), add_bos=True, special=False)
    finally:
        vocabulary.close()
    return hashlib.sha256(str(ids).encode()).hexdigest()

"""Upstream's converter, taken from the llama-cpp-python source package and run in an environment of its own."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "llama-cpp-python"
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
        self._root = _sources(work)
        self._python = python if python is not None else _environment(work)

    def convert(self, checkpoint: Path, target: Path, out_type: str, *, vocab_only: bool = False) -> None:
        """Write the GGUF file `target`; raises with the converter's last output if it fails."""
        script = self._root / "convert_hf_to_gguf.py"
        command = [str(self._python), str(script), "--outtype", out_type, "--outfile", str(target), str(checkpoint)]
        environment = os.environ | {
            "PYTHONPATH": str(self._root / "gguf-py"),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }
        _run(command + ["--vocab-only"] * vocab_only, environment)

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


def _sources(work: Path) -> Path:
    version = importlib.metadata.version(PACKAGE)
    root = work / f"llama_cpp_python-{version}" / "vendor" / "llama.cpp"
    if not root.is_dir():
        archive = work / f"llama_cpp_python-{version}.tar.gz"
        if not archive.is_file():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
            _run([*command, "--dest", str(work), f"{PACKAGE}=={version}"], dict(os.environ))
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    return root


def _environment(work: Path) -> Path:
    venv = work / "venv"
    python = venv / "bin" / "python"
    done = venv / "complete"
    if not done.is_file():
        _run([sys.executable, "-m", "venv", "--clear", str(venv)], dict(os.environ))
        _run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], dict(os.environ))
        done.touch()
    return python


def _run(command: list[str], environment: dict[str, str]) -> None:
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
        raise SystemExit(f"{' '.join(command)}\nfailed with {result.returncode}:\n{tail}")

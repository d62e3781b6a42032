"""Adapters of the demonstration model, and what its weights are with them."""

import hashlib
from pathlib import Path

from convert.cli import main
from edge_agent.core.pipe import Adapter
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.convert.adapters import AdapterFiles, make_adapter, read_tensors, write_merged


def demo_adapter(seed: int = 3, strength: float = 0.06) -> AdapterFiles:
    """An adapter that is strong enough to change answers."""
    return make_adapter(read_tensors(checkpoint_folder()), strength=strength, seed=seed)


def convert(checkpoint: Path, bundle: Path, *more: str) -> Path:
    """Converts in F16."""
    assert main([str(checkpoint), "--out", str(bundle), "--type", "f16", "--no-canaries", *more]) == 0
    return bundle


def bundle_with(adapter: AdapterFiles, folder: Path) -> Path:
    """A bundle of the demonstration model and this adapter."""
    return convert(checkpoint_folder(), folder / "bundle", "--lora", str(adapter.write(folder / "lora")))


def merged_bundle(adapters: list[AdapterFiles], folder: Path) -> Path:
    return convert(write_merged(checkpoint_folder(), adapters, folder / "merged"), folder / "merged-bundle")


def to_load(path: Path) -> Adapter:
    """The adapter as the model store finds it."""
    return Adapter(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())

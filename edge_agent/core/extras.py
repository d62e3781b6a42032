"""Extras of pyproject.toml: a base installation, which only asks and watches boards, lacks their packages."""

from importlib.util import find_spec

_ENGINE = ("llama_cpp", "llguidance", "numpy", "cryptography")
_CONVERT = (*_ENGINE, "gguf", "scipy", "threadpoolctl", "matplotlib")
_MODULES = {
    "engine": _ENGINE,
    "convert": _CONVERT,
    "demo": _CONVERT,
    "plots": ("matplotlib",),
    "pool": ("pika",),
    "recover": (*_CONVERT, "torch", "transformers"),
    "train": (*_CONVERT, "torch", "transformers", "tokenizers", "sklearn"),
    "web": ("starlette", "uvicorn"),
}
# Those whose packages are in the wheelhouse of a release.
_RELEASED = ("engine", "pool", "web")


def missing_extra(extra: str) -> str | None:
    """Which modules of an extra are missing, and the command that installs them; None if all are there."""
    missing = [name for name in _MODULES[extra] if find_spec(name) is None]
    if not missing:
        return None
    # PyPI's `edge-agent` is the package of another project.
    command = f"pip install '.[{extra}]' in a copy of the repository"
    if extra in _RELEASED:
        command += f", or 'edge-agent[{extra}]' from a release's wheelhouse"
    return f"packages are missing ({', '.join(missing)}): {command}"

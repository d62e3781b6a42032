"""What the header of a GGUF model tells, read before native code reads the file."""

from pathlib import Path

from edge_agent.gguf.header import HeaderError
from edge_agent.gguf.model import ModelFacts, read_model_facts

from ..errors import ConvertError, printable


def model_facts(path: Path) -> ModelFacts:
    """Raises ConvertError for a file that the agent would not open."""
    try:
        return read_model_facts(path)
    except HeaderError as error:
        raise ConvertError(f"{printable(str(path))}: {error}") from None
    except OSError as error:
        raise ConvertError(f"{printable(str(path))}: cannot be read: {error.strerror}") from None

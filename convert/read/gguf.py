"""The header of a GGUF model, checked before native code reads the file."""

from pathlib import Path

from ..agent import HeaderError, ModelFacts, read_model_facts
from ..errors import ConvertError, printable


def model_facts(path: Path) -> ModelFacts:
    """Raises ConvertError for a file that the agent would not open."""
    try:
        return read_model_facts(path)
    except HeaderError as error:
        raise ConvertError(f"{printable(str(path))}: {error}") from None
    except OSError as error:
        raise ConvertError(f"{printable(str(path))}: cannot be read: {error.strerror}") from None

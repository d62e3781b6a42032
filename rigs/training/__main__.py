"""Trains the demonstration model; needs PyTorch."""

import importlib.util
import sys

if __name__ == "__main__":
    if lacking := [name for name in ("torch", "tokenizers", "safetensors") if importlib.util.find_spec(name) is None]:
        sys.exit(f"this rig needs {', '.join(lacking)}: pip install '.[training]'")
    from rigs.training.train import main

    sys.exit(main())

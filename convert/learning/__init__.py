"""Beside the conversion: `train` makes small models from labelled rows; other commands extend a copy of a bundle."""

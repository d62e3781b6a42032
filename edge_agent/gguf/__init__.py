"""The header of a model or adapter file, checked before native code reads it."""

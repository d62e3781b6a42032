"""Writes a bundle (the GGUF file, the adapter, the manifest, its signature) and verifies bundles."""

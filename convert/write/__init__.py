"""What is written: a GGUF file in a bundle, whole or not at all."""

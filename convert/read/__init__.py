"""Reads a checkpoint folder (its configuration, its tokenizer, where its weights are), LoRA adapters and text files."""

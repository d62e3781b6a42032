"""What is read: a checkpoint folder, its weights, its configuration and its tokenizer."""

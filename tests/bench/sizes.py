"""What every side gets: the same threads, context and number of clients."""

THREADS = 2
CONTEXT_TOKENS = 4096
CLIENTS = 8
# Tokens of prompts that the agent puts into one step.
BATCH_TOKENS = 256

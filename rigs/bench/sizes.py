"""What every side gets: the same threads, context and number of clients."""

THREADS = 2
CONTEXT_TOKENS = 4096
CLIENTS = 8
# Tokens of prompts that the others put into one step; the agent measures what it should.
BATCH_TOKENS = 256

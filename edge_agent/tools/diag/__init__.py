"""`edge-agent diag`: what support needs to know of a board, in one file and without secrets."""

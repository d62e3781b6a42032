"""The engine: one worker process that owns llama.cpp, and the parent's end of its pipe."""

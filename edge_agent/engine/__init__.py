"""The engine: the worker process, which owns llama.cpp and answers what comes through its pipe."""

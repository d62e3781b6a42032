"""Weights in llama.cpp's types: which type each tensor gets, and its bytes as that type."""

"""Weights in llama.cpp's types."""

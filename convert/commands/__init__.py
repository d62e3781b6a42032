"""The sub-commands of `edge-convert`, one module each; a command takes its words and returns an exit code."""

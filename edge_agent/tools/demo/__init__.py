"""The demonstration, with a bundled model, an embedded broker and sensors. `edge-agent demo` runs it."""

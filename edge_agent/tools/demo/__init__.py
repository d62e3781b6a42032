"""The demonstration: a bundled model, an embedded broker, sensors. `edge-agent demo` runs it."""

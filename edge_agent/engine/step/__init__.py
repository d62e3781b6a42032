"""Which requests take part in a step of the engine, and with how many rows."""

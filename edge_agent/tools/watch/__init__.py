"""`edge-agent watch`: all boards of a site in a terminal."""

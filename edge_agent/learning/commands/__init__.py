"""The commands `accuracy`, `tune` and `rows`."""

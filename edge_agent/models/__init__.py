"""Bundles: opened, put in force, switched, asked whether they still answer as they did."""

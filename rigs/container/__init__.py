"""The image in a container, with the command of the unit for Podman."""

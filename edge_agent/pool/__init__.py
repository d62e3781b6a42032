"""Requests that many boards share: a board takes as many from RabbitMQ as it can run."""

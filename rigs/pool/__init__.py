"""A pool: boards behind one request topic, on queues of RabbitMQ."""

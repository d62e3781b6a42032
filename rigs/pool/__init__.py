"""A pool of boards behind one request topic, on queues of RabbitMQ."""

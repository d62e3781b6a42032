"""Connections to RabbitMQ by AMQP, with the hosts and the account of `[mqtt]`; and their faults in words."""

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from pika import BlockingConnection, ConnectionParameters, PlainCredentials, SSLOptions
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException, AMQPConnectorStackTimeout
from pika.exceptions import AMQPError, ChannelClosedByBroker, IncompatibleProtocolError

from edge_agent.core.config import Config
from edge_agent.mqtt.credentials import connection_fault, read_secret, tls_context

# What may go wrong with a connection: the network, credentials that cannot be read, RabbitMQ's refusals.
CONNECTION_ERRORS = (AMQPError, AMQPConnectorException, OSError, ValueError)
CONNECT_S = 5.0
HEARTBEAT_S = 10
# RabbitMQ's default account, which may connect from the broker's own machine only.
GUEST = "guest"


class PoolError(Exception):
    """RabbitMQ cannot be used; the message says why, for each host that was asked. `advice` says what to do."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


def connect(config: Config, host: str, *, account: tuple[str, str] | None = None) -> BlockingConnection:
    """`account` is the user and the password, by default those of `[mqtt]`. Raises one of CONNECTION_ERRORS."""
    mqtt, pool = config.mqtt, config.pool
    assert pool is not None
    # It logs each attempt. Faults are logged or shown here.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    if account is None:
        password = GUEST if mqtt.password_file is None else read_secret(mqtt.password_file)
        account = (mqtt.username or GUEST, password)
    return BlockingConnection(
        ConnectionParameters(
            host=host,
            port=port_of(config),
            virtual_host=pool.virtual_host,
            credentials=PlainCredentials(*account),
            heartbeat=HEARTBEAT_S,
            blocked_connection_timeout=2 * HEARTBEAT_S,
            socket_timeout=CONNECT_S,
            stack_timeout=2 * CONNECT_S,
            ssl_options=None if mqtt.tls is None else SSLOptions(tls_context(mqtt.tls), host),
            client_properties={"connection_name": f"{config.device.site}.{config.device.id}.pool"},
        )
    )


@contextmanager
def connected(config: Config, host: str, *, account: tuple[str, str] | None = None) -> Iterator[BlockingConnection]:
    """A connection that is closed at the end. Raises one of CONNECTION_ERRORS."""
    connection = connect(config, host, account=account)
    try:
        yield connection
    finally:
        # pika refuses to close a lost connection, which would hide why it was lost.
        if connection.is_open:
            with suppress(*CONNECTION_ERRORS):
                connection.close()


@contextmanager
def channel_at_first_host(
    config: Config, *, account: tuple[str, str] | None = None
) -> Iterator[tuple[BlockingChannel, str]]:
    """A channel at the first host that accepts the account, and that host with its port.

    Errors of AMQP become PoolError, even those raised in the body.
    """
    refusals: list[str] = []
    advice = ""
    with ExitStack() as stack:
        for host in config.mqtt.hosts:
            where = f"{host}:{port_of(config)}"
            try:
                channel = stack.enter_context(connected(config, host, account=account)).channel()
                break
            except CONNECTION_ERRORS as error:
                refusals.append(f"{where}: {fault_text(error)}")
                advice = _advice_on(error)
        else:
            raise PoolError("; ".join(refusals), advice)
        try:
            yield channel, where
        except CONNECTION_ERRORS as error:
            # The other hosts have the same queues.
            raise PoolError(f"{where}: {fault_text(error)}", _advice_on(error)) from error


def port_of(config: Config) -> int:
    assert config.pool is not None
    return config.pool.port or (5671 if config.mqtt.tls else 5672)


def fault_text(error: BaseException) -> str:
    """Why RabbitMQ cannot be used, in its own words or those of the system."""
    if isinstance(error, ChannelClosedByBroker):
        return str(error.reply_text)
    # pika wraps what it met in errors whose text is the name of their class.
    while (inner := _inner(error)) is not None:
        error = inner
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{connection_fault(error)}"
    if isinstance(error, IncompatibleProtocolError):
        return "it closes the connection: there is no listener for AMQP, or only one with TLS"
    if isinstance(error, AMQPConnectorStackTimeout):
        return "no answer in AMQP"
    text = next((text for text in error.args[::-1] if isinstance(text, str) and text), None) or type(error).__name__
    # Some are the text of another error, with its class and code.
    words = re.fullmatch(r"\w+: \(\d+\) '(.+)'", text)
    return words[1] if words else text


def _advice_on(error: BaseException) -> str:
    text = fault_text(error)
    if "NOT_FOUND" in text:
        return "create the queues with `edge-agent pool declare`, or correct pool.name"
    if "ACCESS_REFUSED" in text:
        return "check mqtt.username and mqtt.password_file, and what RabbitMQ permits that user (docs/pool.md)"
    if "PRECONDITION_FAILED" in text:
        return "the queue exists with another --most-waiting: delete it first, while none waits (docs/pool.md)"
    return "check mqtt.host, pool.port, and that a RabbitMQ listens there for AMQP"


def _inner(error: BaseException) -> BaseException | None:
    wrapped = getattr(error, "exception", None) or next(iter(error.args), None)
    return wrapped if isinstance(wrapped, BaseException) else None

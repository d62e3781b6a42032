"""Check of the pool: can its queue be reached with this configuration?"""

from __future__ import annotations

from edge_agent.core.config import Config
from edge_agent.core.extras import missing_extra
from edge_agent.tools.doctor.check import Check, failed, good


def pool_check(config: Config) -> Check:
    """Of the first host that accepts the board by AMQP."""
    if missing := missing_extra("pool"):
        return failed("pool", missing, "install the extra, or leave [pool] out")
    # pika is an extra.
    from edge_agent.pool.amqp import PoolError, channel_at_first_host  # noqa: PLC0415
    from edge_agent.pool.queues import queues_of, read_figures  # noqa: PLC0415

    queues = queues_of(config)
    try:
        with channel_at_first_host(config) as (channel, where):
            figures = read_figures(channel, queues)
    except PoolError as error:
        return failed("pool", str(error), error.advice)
    found = f"{figures.waiting} requests wait, the boards have {figures.places} places"
    return good("pool", f"{queues.requests} at {where}: {found}")

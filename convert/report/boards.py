"""PURE. How fast a board could answer at best, from what its maker publishes of its memory."""

from dataclasses import dataclass

from .quality import Speed


@dataclass(frozen=True, slots=True)
class _Board:
    name: str
    bandwidth_gb_s: float
    source: str


# Transfers per second times bytes per transfer: what no processor on that board can exceed. Processors reach less: on a
# Raspberry Pi 4 STREAM gives 4.8 to 5.6 GB/s (sci-pi.org.uk, "Stream"). One kind of figure for all of them compares the
# boards fairly, and what one board really does is `edge-agent bench`'s to tell.
_BOARDS = (
    _Board("Raspberry Pi 4", 12.8, "Raspberry Pi: LPDDR4-3200, 32 bits wide"),
    _Board("Raspberry Pi 5", 17.1, "Raspberry Pi: LPDDR4X-4267, 32 bits wide"),
    _Board("RK3588", 34.1, "Rockchip RK3588 data sheet: LPDDR4X-4267, 64 bits wide; 44 with LPDDR5-5500"),
    _Board("Jetson Orin Nano", 68.0, "Nvidia data sheet: 8 GB module, LPDDR5, 128 bits wide; 102 in Super mode"),
    _Board("Jetson Orin NX", 102.4, "Nvidia data sheet DS-10712-001: LPDDR5-6400, 128 bits wide"),
)


def predicted_speeds(bytes_per_token: float) -> tuple[Speed, ...]:
    """What one request's decoding could reach on well-known boards if nothing but their memory's bandwidth limits it.

    bytes_per_token, above 0: what a decode step reads: every matrix, of an embedding that is no output matrix one row
    only, and the context's keys and values where they count.
    """
    return tuple(
        Speed(
            board=board.name,
            bandwidth_gb_s=board.bandwidth_gb_s,
            source=board.source,
            tokens_per_s=round(board.bandwidth_gb_s * 1e9 / bytes_per_token, 1),
        )
        for board in _BOARDS
    )

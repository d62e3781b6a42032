"""PURE. What is published of well-known boards, with where; and how fast one could answer at best."""

from dataclasses import dataclass

from .quality import Speed


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure, or an assumption: then `source` begins with "assumed", and says why."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Board:
    """bandwidth_gb_s: theoretical, of its memory. reached_gb_s: what decoding reads of it. gweights_s: weights that all
    cores multiply prompts with, in 10⁹ per second. watts: at the wall, while it answers; None = not published.

    Boards without reached_gb_s and gweights_s are not sized. is_plain: its cores have no dotprod: nothing is repacked.
    """

    name: str
    bandwidth_gb_s: float
    source: str
    memory_gb: tuple[int, ...] = ()
    reached_gb_s: Figure | None = None
    gweights_s: Figure | None = None
    watts: Figure | None = None
    is_plain: bool = False


_LEARNING_PATHS = (
    "github.com/ArmDeveloperEcosystem/arm-learning-paths, llm-decode-roofline: Qwen2.5 0.5B and 1.5B with llama-bench"
)
_AI_BENCHMARKS = "github.com/geerlingguy/ai-benchmarks"
# Transfers per second times bytes per transfer: what no processor on that board can exceed, one kind of figure for all
# of them. Processors reach less, and it is published for few; what a board really does is `edge-agent bench`'s to tell.
BOARDS = (
    Board(
        "Raspberry Pi 4",
        12.8,
        "Raspberry Pi: LPDDR4-3200, 32 bits wide",
        memory_gb=(2, 4, 8),
        reached_gb_s=Figure(3.3, f"{_AI_BENCHMARKS}: Llama 3.2 3B Q4_K_M (2.02 GB), 1.60 tokens/s on a Pi 400"),
        gweights_s=Figure(9.4, "github.com/ggml-org/llama.cpp/pull/8151: 2.35 per Cortex-A72 core, times four"),
        watts=Figure(6.0, f"{_AI_BENCHMARKS}: Pi 400 with Llama 3.2 3B"),
        is_plain=True,
    ),
    Board(
        "Raspberry Pi 5",
        17.1,
        "Raspberry Pi: LPDDR4X-4267, 32 bits wide",
        memory_gb=(2, 4, 8, 16),
        reached_gb_s=Figure(11.8, _LEARNING_PATHS),
        gweights_s=Figure(110.0, f"{_LEARNING_PATHS}: 327 and 83 prompt tokens/s with 4 threads"),
        watts=Figure(11.9, f"{_AI_BENCHMARKS}/issues/7: Llama 3.2 3B, four threads, peak"),
    ),
    Board(
        "RK3588",
        34.1,
        "Rockchip RK3588 data sheet: LPDDR4X-4267, 64 bits wide; 44 with LPDDR5-5500",
        memory_gb=(4, 8, 16),
        reached_gb_s=Figure(20.0, "assumed: 0.6 of theory; its NPU reaches 25.7 (github.com/airockchip/rknn-llm)"),
        gweights_s=Figure(105.0, "assumed: four Cortex-A76 of 2.3 GHz as those of a Raspberry Pi 5"),
    ),
    Board(
        "Jetson Orin Nano",
        68.0,
        "Nvidia data sheet: 8 GB module, LPDDR5, 128 bits wide; 102 in Super mode",
        memory_gb=(8,),
        reached_gb_s=Figure(27.0, "assumed: 0.4 of theory, as six cores of 1.5 GHz are not known to read more"),
        gweights_s=Figure(100.0, "assumed: per core and GHz as a Raspberry Pi 5; the GPU is not used"),
        watts=Figure(15.0, "Nvidia data sheet: the 15 W mode, of the module, which it does not exceed"),
    ),
    Board("Jetson Orin NX", 102.4, "Nvidia data sheet DS-10712-001: LPDDR5-6400, 128 bits wide"),
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
        for board in BOARDS
    )

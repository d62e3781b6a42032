"""Every number of the simulation with its source. "assumed" = no source was found; the reason is given.

All power is at the wall, as the sources measure it. So the thermal resistances are per watt at the wall too: they
include losses of the supply and heat of other chips. Sources:
  [arm]    ArmDeveloperEcosystem/arm-learning-paths: cross-platform/llm-decode-roofline, threads-and-size.md
           (Raspberry Pi 5, Qwen2.5-0.5B Q4_0, llama-bench pp512 and tg128 by threads, no throttling)
  [ai7]    github.com/geerlingguy/ai-benchmarks/issues/7 (Pi 5 16 GB, Ollama, Llama 3.2 3B: 4.88 tokens/s at 11.9 W)
  [sbc21]  github.com/geerlingguy/sbc-reviews/issues/21 (Pi 5: HPL at 12.0 W; core voltages as sbc-bench shows them)
  [sbc60]  github.com/geerlingguy/sbc-reviews/issues/60 (Pi 500, no fan: 10.4-10.7 W with Ollama for about 5 minutes,
           then 80-85 °C, 9.8 W and 2.2-2.4 GHz)
  [idle]   github.com/geerlingguy/sbc-reviews/issues/21, 81 (Pi 5, 500+: 2.9-3.1 W idle, 9-12 W under stress)
  [freq]   raspberrypi/documentation: frequency-management.adoc (throttled progressively between 80 and 85 °C)
  [eep518] github.com/raspberrypi/rpi-eeprom/issues/518 (Pi 5: 2256 MHz at 82.9 °C; further heating down to 1500 MHz)
  [dts]    raspberrypi/linux: bcm2712-rpi-5-b.dts (the fan's trips 50, 60, 67.5 and 75 °C, each with 5 °C of hysteresis)
  [st138]  github.com/nschloe/stressberry/issues/138 (Pi 5, aluminium case, no fan, all cores: 63 °C after half an hour)
  [st139]  github.com/nschloe/stressberry/issues/139 (Pi 5, official Active Cooler, all cores: about 61 °C at most)
  [oc]     "Thermal Analysis - RPi5 Overclocking Results", a public repository's notes (Pi 5, heat sink without fan,
           2.8 GHz: 57.1 °C idle; 67.5 after 15 s, 69.7 after 60 s, 71.9 after 180 s of full load)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cooling:
    """Two nodes: the die with its lid, and what carries its heat to the air.

    sink_k_per_w: from the sink to the air, K/W, by the step of the fan, 0 = off. sink_j_per_k, die_j_per_k: heat
    capacities, J/K.
    """

    name: str
    sink_k_per_w: tuple[float, ...]
    sink_j_per_k: float
    # [oc]: of 14.8 K for about 8 W more, 10 K come within 15 s: a fast node of 1.2 K/W.
    die_k_per_w: float = 1.2
    # [oc]: those 15 s are about three time constants: 5 s / 1.2 K/W.
    die_j_per_k: float = 4.2


# [sbc60]: 82 °C at 10.5 W in a room of (assumed) 23 °C are 5.6 K/W together, less 1.2 of the die. [st138] has a better
# case, 4.4 to 4.7 K/W together. Its capacity: it throttles after about 5 minutes, as with 75 g of aluminium.
PASSIVE = Cooling("passive", sink_k_per_w=(4.4,), sink_j_per_k=68.0)
# [st139]: 61 °C at (assumed) 9.5 W and 22 °C are 4.1 K/W together, between the fan's first two steps. The other steps
# are assumed by the duty of the fan (75, 125, 175, 250 of 255 in [dts]). Without its fan it is assumed to be worse than
# PASSIVE, because it is smaller. Its capacity is assumed: about 45 g of aluminium.
ACTIVE = Cooling("active", sink_k_per_w=(5.4, 3.3, 2.7, 2.3, 1.9), sink_j_per_k=40.0)
# [dts]; °C.
FAN_TRIPS_C = (50.0, 60.0, 67.5, 75.0)
FAN_HYSTERESIS_C = 5.0

# [idle]
IDLE_W = 3.0
# [ai7]: 11.9 W with four threads that wait for memory most of the time. Split over threads linearly, and into what a
# thread and what the memory takes: assumed, no source measures power by threads.
MEMORY_BOUND_W_PER_THREAD = 1.9
MEMORY_BOUND_W = 1.3
# [sbc21]: 12.0 W with four threads of dense arithmetic (HPL). The same assumption.
COMPUTE_BOUND_W_PER_THREAD = 2.2
COMPUTE_BOUND_W = 0.2
# Assumed: leakage does not grow with temperature. It does, but no source tells how much; that favours hot boards.

# [sbc21]: core voltages at 2400 and 1500 MHz; between them linear (assumed). What the cores take beyond idle goes by
# frequency x voltage².
FULL_MHZ = 2400.0
LOWEST_MHZ = 1500.0
# As `arm_freq` of a board without a fan in a hot place.
LOWER_MHZ = 1800.0
FULL_V = 0.91
LOWEST_V = 0.72

# [freq], and the slope of [eep518]: 50 MHz per K (2256 MHz at 82.9 °C), also what [sbc60] saw at 80 to 85 °C.
THROTTLE_FROM_C = 80.0
THROTTLE_MHZ_PER_K = 50.0
# [freq]: the limit that the firmware keeps. Assumed: it goes down to LOWEST_MHZ within 1 K, so that it settles there.
HARD_LIMIT_C = 85.0
HARD_THROTTLE_MHZ_PER_K = 650.0

# [arm]: tokens per second by threads; prompts of 512 tokens, and one answer at a time.
PREFILL_TOK_S = {1: 93.49, 2: 173.68, 3: 233.22, 4: 289.92}
DECODE_TOK_S = {1: 32.42, 2: 33.84, 3: 29.37, 4: 27.28}
# Assumed: a step takes the time for the weights, which does not depend on the clock, and then the time for its rows,
# which goes with 1/MHz. Published figures of 2 to 16 rows per step on a Pi 5 were not found. Overlap would make wide
# steps faster than this.

# The sensor: [sbc21] shows steps of 0.55 °C (44.1, 44.6, 45.2, 45.8, ...); noise is assumed.
SENSOR_STEP_C = 0.55
SENSOR_NOISE_C = 0.3


# Requests, all assumed: readings of some tens of tokens beside a shared prefix, short answers, more than fit.
REQUESTS_PER_S = 2.5
# The share of all requests by priority (0 = most urgent).
SHARES = {0: 0.05, 3: 0.20, 5: 0.50, 7: 0.25}
PROMPT_TOKENS = (30, 90)
ANSWER_TOKENS = (8, 56)
URGENT_DEADLINE_S = 10.0
DEADLINE_S = 60.0

# The agent as it calibrates itself with these figures: two threads for steps of few rows, four for prompts, 64 rows of
# prompts per step. Four requests at once and a queue of 64 are its defaults.
DECODE_THREADS = 2
PREFILL_THREADS = 4
BATCH_TOKENS = 64
MAX_ACTIVE = 4
QUEUE_CAPACITY = 64

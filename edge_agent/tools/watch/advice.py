"""What an operator should do about each level, reason and alarm, by the names that boards and `watch` use."""

from collections.abc import Sequence

ADVICE = {
    # Levels of `watch`, for boards of which no reason says more
    "missing": "check its power, its network and its `device.id`",
    "offline": "check its power and network, then `systemctl status edge-agent` on it",
    "stale": "it hangs, lost power together with the broker, or is refused by it: "
    "check its power, then `edge-agent doctor` on it",
    "unknown": "wait three intervals, then check whether your user may read its topics",
    "starting": "its model is loading: wait, which takes minutes on a slow card",
    "stopped": "`systemctl start edge-agent` on it, or look at its power, unless this is intended",
    # Reasons of `state`
    "connection-lost": "check its power and network, then `systemctl status edge-agent` on it; if it hangs, restart "
    "it; if it runs, `edge-agent doctor` says whether the broker refuses it",
    "model-load-failed": "copy its bundle there again, or send `model-switch`: it tries again every minute",
    "model-changed": "wait: it restarts and verifies the files",
    "drain command": "send `edge-agent command resume`, unless this is intended",
    "stopping": "wait: it finishes its requests",
    # Reasons of `health`
    "data-connection-lost": "no requests reach it: look for `cannot connect` in its log",
    "model-not-loaded": "no model answers: wait a minute, then look at its other reasons and its log",
    "model-fallback": "copy the bundle of its last switch there again, then send `model-switch`; "
    "on a fleet, `provision.yml --limit BOARD` does both",
    "task-without-model": "switch to a bundle that has its model, restore its labels and template, or remove it",
    "connection-unstable": "if the broker was away several times, wait; otherwise look for a second agent of this "
    "name, or a bad radio link",
    "publishing-refused": "its log names the topic: let its user write",
    "subscription-refused": "its log names the topic: let its user read",
    "requests-in-memory-only": "its disk is full, broken or read-only: free or replace it, then restart edge-agent",
    "requests-lost": "its database was damaged: check the card, then restart edge-agent",
    "draining": "send `edge-agent command resume`, unless this is intended",
    "queue-full": "send fewer requests, or add a board",
    "limited": "it slows itself down: look at temperature, power supply and memory",
    "sensor-errors": "a sensor of the board cannot be read: see `dmesg`",
    "promise-unproven": "it gives no answers: answer its audits, or remove `min_accuracy` for now",
    "audits-open": "answer its audits: a promise says nothing after `accuracy.TASK.until`, and ends if nobody answers",
    "signals-stale": "look at the sensors of machines that lack values, and at `signals` in the board's health; "
    "if births were missed, the Sparkplug node has to publish them again: set `rebirth = true`, or restart the node",
    # Alarms, whose own messages are longer
    "overheating": "cool it, or send fewer requests",
    "throttled": "check its cooling and power supply",
    "undervoltage": "use a stronger power supply and a shorter cable",
    "memory-low": "stop other programs, lower `engine.context_tokens`, or use a smaller model",
    "disk-low": "remove old models and logs",
    "worker-crash-loop": "read its log, free memory, run `edge-agent doctor`, or roll the model back",
    "worker-silent": "wait, the worker is ended after 120 s and started again",
    "model-quality": "do not trust its answers: run `edge-agent doctor`, copy the bundle again",
    "model-expired": "switch to a newer bundle",
    "revocations": "copy the newest list, its signature and the keys to it, or switch to another bundle",
    "accuracy-low": "look at the inputs of the task, and answer its audits",
    "input-drift": "look at the inputs of the task, and answer its audits",
    "odd-inputs": "look at what the message names",
    "duplicate-client-id": "give each board its own `device.id`",
    "queue-overload": "send fewer requests, add a board, or set priorities",
    "pool-unreachable": "run `edge-agent doctor`; meanwhile other boards answer",
    "pool-backlog": "add a board, or send fewer requests",
}


def advice_on(phrase: str) -> str | None:
    """What to do about a phrase such as `connection-lost` or `model-load-failed: no such file`."""
    return ADVICE.get(phrase) or ADVICE.get(phrase.split(":", maxsplit=1)[0])


def advice_for(phrases: Sequence[str], level: str) -> list[str]:
    """What to do about these phrases, each advice once. If none has advice, the level's."""
    advice = [words for phrase in phrases if (words := advice_on(phrase))]
    if not advice and level in ADVICE:
        return [ADVICE[level]]
    return list(dict.fromkeys(advice))


def with_advice(phrases: Sequence[str], level: str) -> list[str]:
    """Each phrase with what to do about it. If none has advice, the level's follows them."""
    if level in ADVICE and not any(map(advice_on, phrases)):
        return [": ".join(("; ".join(phrases), ADVICE[level])) if phrases else ADVICE[level]]
    return [f"{phrase}: {advice}" if (advice := advice_on(phrase)) else phrase for phrase in phrases]

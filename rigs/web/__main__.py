"""The page, `edge-agent web`, in a real Chromium over a real mosquitto; each command is a module of this package.

screens: each screen, narrow and wide, light and dark: accessibility, sizes of targets, focus; --out: for docs/page.md.
load: 200 boards, 500 answers a second and 20 viewers: how old the page is, and what its process takes.
faults: what the page says when broker, process, boards, clocks or permissions fail.
soak: a day at 24 times the rate: memory of process and tab, and the size of the journal.
loop: a person answers audits on the page until a promise is proven; what was said trains a better model.
hostile: requests and messages that attack the page.
"""

import sys

from rigs.machine import run_command

COMMANDS = ("screens", "load", "faults", "soak", "loop", "hostile")

if __name__ == "__main__":
    sys.exit(run_command("rigs.web", __doc__, COMMANDS))

"""PURE. Where names stand in a drawing, so that all can be read. Lengths are in pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Of the widest common interface fonts, so that a label is never wider than the room that was found for it.
EM_PER_CHARACTER = 0.6
TEXT_SIZE = 13
POINT_RADIUS = 6
_LONGEST_LABEL = 24


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: "Box") -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def label_text(name: str) -> str:
    """A name as short as a drawing has room for."""
    return name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """An upper estimate; what draws the text is not known here."""
    return len(text) * size * EM_PER_CHARACTER


def place_labels(
    names: Sequence[str], marks: Sequence[tuple[float, float]], area: Box, *, first: Sequence[bool]
) -> list[Box | None]:
    """Where each mark's name fits, and a line to it, without touching a mark, another name or the area's edge.

    None where none does. The ones that are `first` choose first.
    """
    taken = [Box(x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS) for x, y in marks]
    placed: list[Box | None] = [None] * len(names)
    for index in sorted(range(len(names)), key=lambda index: not first[index]):
        x, y = marks[index]
        others = taken[:index] + taken[index + 1 :]
        for box in _places(x, y, text_width(names[index]), TEXT_SIZE + 3):
            needed = [box, *_leader_boxes(x, y, box)]
            if area.holds(box) and not any(one.overlaps(other) for one in needed for other in others):
                placed[index] = box
                taken += needed
                break
    return placed


def _places(x: float, y: float, width: float, height: float) -> list[Box]:
    # Right, left, above, below, then the corners, and all of that again farther away.
    found = []
    for far in (1, 16, 32, 48):
        near = POINT_RADIUS + 1 + far
        sides = ((near, -height / 2), (-near - width, -height / 2), (-width / 2, -near - height), (-width / 2, near))
        corners = ((far, -near - height), (-far - width, -near - height), (far, near), (-far - width, near))
        for dx, dy in (*sides, *corners):
            found.append(Box(x + dx, y + dy, x + dx + width, y + dy + height))
    return found


def leader_end(x: float, y: float, box: Box) -> tuple[float, float] | None:
    """Where the line from a mark to its name ends; None where the name stands so near that it needs none."""
    end_x, end_y = min(max(x, box.left), box.right), min(max(y, box.top + 3), box.bottom - 3)
    return None if math.hypot(end_x - x, end_y - y) < POINT_RADIUS + 8 else (end_x, end_y)


def _leader_boxes(x: float, y: float, box: Box) -> list[Box]:
    """What the line takes, in pieces of about two pixels."""
    if (end := leader_end(x, y, box)) is None:
        return []
    pieces = math.ceil(math.hypot(end[0] - x, end[1] - y) / 2)
    shares = [piece / pieces for piece in range(pieces)]
    points = [(x + share * (end[0] - x), y + share * (end[1] - y)) for share in shares]
    return [Box(at_x - 1, at_y - 1, at_x + 1, at_y + 1) for at_x, at_y in points]

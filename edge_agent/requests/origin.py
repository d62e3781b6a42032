"""Where a request came from, and how that source learns what became of it."""

from abc import ABC, abstractmethod

from edge_agent.core.codes import Error
from edge_agent.core.messages import Message
from edge_agent.core.topics import TaskTopics


class Origin:
    """This class itself is for messages at QoS 0, of which nothing is kept. A request is settled or given back once."""

    row: int | None = None  # The row of the store that holds it, if there is one.

    @property
    def is_repeated(self) -> bool:
        """Whether a board, perhaps this one, had the request before and may have answered."""
        return False

    def settle(self) -> None:
        """Called when its reply has reached the broker, or it needs none; it does not come again."""

    def give_back(self) -> bool:
        """Lets another board answer it. Returns False if none can, so that this one has to."""
        return False


class StoreRow(Origin):
    """A message at QoS 1, which is in the store until its reply is delivered."""

    def __init__(self, row: int, delivered: list[int]) -> None:
        """`delivered` collects the rows of settled requests, which are then marked together."""
        self.row = row
        self._delivered = delivered

    def settle(self) -> None:
        assert self.row is not None
        self._delivered.append(self.row)


class SharedRequest(Origin, ABC):
    """A request that other boards could answer, too. The board's own requests start before it."""

    message: Message
    topics: TaskTopics  # The pool's, to which it was sent, instead of the board's own.

    @property
    @abstractmethod
    def refusal(self) -> Error | None:
        """Why it is not to be run, if it only needs a reply."""

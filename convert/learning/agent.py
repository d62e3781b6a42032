"""All that learning uses of the agent besides `convert.agent`. mypy and ruff let it re-export."""

from edge_agent.learning.maths.calibration import Judged, calibration_error
from edge_agent.learning.maths.export import Export, read_export
from edge_agent.learning.maths.fit import board_map, shared_map

"""All kinds of task.

To add one, write its module beside this one, name it below and describe what callers see of it:

* tools/schema/reply.json, if its output, another field of its replies or its `finish` is new; tools/schema/info.json:
  its name, and the keys that `info` shows of it; docs/tasks.md and docs/mqtt-api.md. `python -m docs.generate` writes
  docs/configuration.md and docs/cli.md.
* If the engine answers it by one of the plans of core/pipe, the engine does not change. The kind turns such an answer
  into what callers get, for example the scores of a grid of numbers into a mean and an interval.
* An example of each of its keys is in `_EXAMPLE` of docs/generate.py; a field that other replies have as null is in
  requests/replies (`_document`). rigs/fuzz/answers.py checks outputs.
* A plan of its own is named in core/pipe (`Plan`) and answered by a module in engine/answer. It has a case in
  engine/active_request, in engine/echo and in gguf/field_table (`fits`), which mypy finds. A `finish` of its own is
  named in core/pipe, too.
* If a small model of the bundle answers it, and never the large one, it says so (`has_own_model`). A file in another
  format than .gguf is read in models/bundle (`_students`, STUDENT_FILE) and opened in engine/students. The converter
  asks the large model alone, so convert/evaluate (canaries, comparison) must leave the kind out, or ask the small one.
* If people may say what its answers should have been (`takes_feedback`), a subclass of learning/keeper, which
  learning/learning lists.
* If `edge-convert train` is to judge it other than as one of `choices`, convert/learning/training, quality and report
  need changes.

tests/test_architecture.py lists the files that name a kind beside its own: the fewer, the better.
"""

from typing import Annotated, get_args

from pydantic import Field

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.estimate import EstimateTask
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.kinds.unusual import UnusualTask

# The task that is there without a table, unless a table disables it.
BUILT_IN_TASK = "generate"

TaskConfig = Annotated[
    ClassifyTask | EstimateTask | ExtractTask | GenerateTask | UnusualTask, Field(discriminator="kind")
]
# The kinds by the names that `kind` has in the configuration.
KINDS: dict[str, type[TaskBase]] = {
    name: kind for kind in get_args(get_args(TaskConfig)[0]) for name in get_args(kind.model_fields["kind"].annotation)
}

"""`edge-convert evaluate BUNDLE --against REFERENCE`: how far a bundle's predictions are from a reference's."""

import sys
from contextlib import closing
from pathlib import Path

from ..adapters import Adapted, adapters_beside, adapters_of_reference
from ..conversion import processors
from ..errors import ConvertError, printable
from ..kept import sole_use
from ..progress import StageLine
from ..read.checkpoint import Checkpoint
from ..read.model_facts import model_facts
from ..reference import TYPE as REFERENCE_TYPE
from ..reference import KeptReference
from ..write.manifest import MODEL_FILE
from . import arguments
from .arguments import Parser
from .asking import read_questions
from .summary import print_quality
from .terminal import EXIT_OK, cache_folder


def run(words: list[str]) -> int:
    """Evaluate; see `--help`."""
    parser = Parser("evaluate", description="Measures how far a bundle's predictions are from a reference's.")
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, help="folder with a model.gguf (and adapters), or a .gguf"
    )
    parser.add_argument(
        "--against",
        metavar="REFERENCE",
        type=Path,
        required=True,
        help="its checkpoint (which then gets the bundle's adapter.gguf), or a bundle or .gguf as it is",
    )
    parser.add_argument("--eval", metavar="FILE", type=Path, help="texts to judge by (default: those that come along)")
    arguments.add_tasks(parser)
    arguments.add_labelled(parser)
    parser.add_argument("--work", metavar="DIR", type=Path, help="where the reference is kept (default: a cache)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    given = parser.parse_args(words)
    if (given.tasks is None) != (given.labelled is None):
        parser.error("--tasks and --labelled go together")
    # They load llama.cpp.
    from ..evaluation import evaluate  # noqa: PLC0415
    from ..measure.texts import evaluation_files, read_texts  # noqa: PLC0415

    texts = read_texts([given.eval] if given.eval else evaluation_files())
    if (model := _gguf(given.bundle)) is None:
        raise ConvertError(
            f"{printable(str(given.bundle))}: should be a bundle, a folder with {MODEL_FILE}, or a .gguf file"
        )
    # Before a reference is made, which takes a while.
    model_facts(model)
    questions = read_questions(given, are_recorded=False)
    work = given.work or cache_folder()
    with closing(StageLine(sys.stderr)) as stages, sole_use(work, stages.show):
        stages.show("reading", 0.0)
        reference = _gguf(given.against)
        if reference is not None:
            kind = model_facts(reference).quantization
            of_reference = adapters_beside(reference) if given.against.is_dir() else []
        else:
            with Checkpoint(given.against) as checkpoint:
                kept = KeptReference(checkpoint, work)
                reference, work, kind = kept.model, kept.home, REFERENCE_TYPE
            of_reference = adapters_of_reference(model) if given.bundle.is_dir() else []
        own = Adapted(model, adapters_beside(model) if given.bundle.is_dir() else ())
        quality = evaluate(
            model,
            reference,
            kind,
            texts,
            adapters=own.adapters,
            reference_adapters=of_reference,
            work=work,
            threads=processors(),
            progress=stages.show,
        )
        quality = questions.judge(quality, own, Adapted(reference, of_reference), work, stages.show)
    if given.json:
        print(quality.encode().decode())
        return EXIT_OK
    print_quality(quality)
    return EXIT_OK


def _gguf(path: Path) -> Path | None:
    """The model file that a bundle or a file's own path means; None = it is neither."""
    if path.is_file():
        return path
    return path / MODEL_FILE if (path / MODEL_FILE).is_file() else None

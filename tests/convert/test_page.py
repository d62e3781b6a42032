"""quality.html: well-formed, complete without any other file, and the same figures as quality.json."""

import dataclasses
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import cache

from convert.report.page import heat_edges, render_page
from convert.report.quality import Size, TensorQuality
from tests.convert.qualities import make_quality, make_tensors

HOSTILE = "<script src=//evil>&\"'</title><img src=x onerror=alert(1)>\N{RIGHT-TO-LEFT OVERRIDE}"


@cache
def default_page() -> str:
    return render_page(make_quality())


def document(text: str) -> ET.Element:
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def text_of(page: str) -> str:
    """What a reader sees, in one line."""
    (body,) = document(page).iter("body")
    return " ".join(" ".join(body.itertext()).split())


def all_of(page: str, tag: str) -> list[str]:
    """The texts of all elements of this kind."""
    return ["".join(element.itertext()) for element in document(page).iter(tag)]


def rows(text: str, caption: str) -> Iterator[list[str]]:
    """The cells of each row of one table."""
    tables = document(text).iter("table")
    (table,) = [table for table in tables if (table.findtext("caption") or "").startswith(caption)]
    for row in table.findall("tbody/tr"):
        yield ["".join(cell.itertext()) for cell in row]


def facts(page: str) -> dict[str, str]:
    (found,) = [one for one in document(page).iter("dl") if one.get("class") == "facts"]
    return {row.findtext("dt") or "": row.findtext("dd") or "" for row in found}


def test_the_page_is_well_formed_and_always_the_same() -> None:
    document(default_page())
    assert render_page(make_quality()) == default_page()


def test_a_conversion_without_a_page_imports_neither_matplotlib_nor_scipy() -> None:
    code = "import sys, convert.cli; print({'matplotlib', 'scipy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = default_page()
    elements = list(document(text).iter())
    tags = {element.tag for element in elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "image"}
    names = {name for element in elements for name in element.keys()}  # noqa: SIM118 - elements are no dictionaries
    assert not {name for name in names if name.startswith("on") or name in ("src", "action")}
    assert all(element.get("href", "#").startswith("#") for element in elements)
    assert not re.search(r"https?:|url\((?!#)|@import|#0102", text)
    policies = [element.get("content") for element in elements if element.tag == "meta"]
    assert "default-src 'none'; style-src 'unsafe-inline'" in policies


def test_text_from_outside_stays_text() -> None:
    quality = make_quality(layers=2)
    comparison = quality.comparison
    hostile = dataclasses.replace(
        quality,
        comparison=dataclasses.replace(
            comparison,
            reference=dataclasses.replace(comparison.reference, type=HOSTILE),
            texts=dataclasses.replace(comparison.texts, name=HOSTILE),
            tasks=tuple(dataclasses.replace(task, name=HOSTILE, kind=HOSTILE) for task in comparison.tasks),
        ),
        tensors=(
            *quality.tensors,
            TensorQuality(name=HOSTILE, type=HOSTILE, bytes=1, divergence=1.0),
            TensorQuality(name="output.weight", type=HOSTILE, bytes=1, divergence=0.1),
        ),
        sizes=(*quality.sizes, Size(name=HOSTILE, bytes=353_000_000, ram_bytes=0, divergence=0.05, is_own=False)),
        bundle=dataclasses.replace(quality.bundle, name=HOSTILE, licence=HOSTILE, quantization=HOSTILE),
    )
    text = render_page(hostile)
    assert not {element.tag for element in document(text).iter()} & {"script", "img"}
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    assert all_of(text, "h1") == [HOSTILE.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\\u202e")]
    assert text_of(text).count("onerror") > 10


def test_charts_and_tables_are_described_for_readers_who_cannot_see_them() -> None:
    page = document(default_page())
    drawings = [drawing for drawing in page.iter("svg") if drawing.get("role") == "img"]
    assert len(drawings) == 2
    ids = [element.attrib["id"] for element in page.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert all("below" in drawing.attrib["aria-label"] for drawing in drawings)
    assert all(cell.get("scope") in ("col", "row") for cell in page.iter("th"))
    assert len(list(page.iter("table"))) == len(list(page.iter("caption"))) == 6


def test_the_page_holds_the_figures_of_the_document() -> None:
    quality, text = make_quality(), default_page()
    divergence = quality.comparison.divergence
    shown = list(rows(text, "KL divergence"))
    assert [float(value) for _, value in shown[:-1]] == [
        *(divergence.mean, divergence.error, divergence.median, divergence.p90, divergence.p99, divergence.max)
    ]
    assert shown[-1] == ["same first choice", "93.81 %"]
    assert [value for _, value in rows(text, "Perplexity")] == ["1.0117", "1.0082 to 1.0153", "14.270", "14.105"]
    assert {name: (float(mb), float(nats)) for name, mb, _, nats in rows(text, "Copied on loading")} == {
        ("this bundle: " if size.is_own else "") + size.name: (round(size.bytes / 1e6, 1), size.divergence)
        for size in quality.sizes
    }
    for tensor, (name, kind, nbytes, nats, how) in zip(quality.tensors, rows(text, "One row"), strict=True):
        assert (name, kind, nbytes, how) == (tensor.name, tensor.type, f"{tensor.bytes:,}", "measured")
        assert float(nats) == tensor.divergence
    assert list(rows(text, "Right answers")) == [
        [
            *("pump state (classify)", "375 of 400: 93.75 % (90.9 to 95.9)", "94.25 %"),
            "-0.5 (-2.0 to +1.0): no measurable difference",
        ]
    ]
    kinds = {kind: int(count) for kind, count, *_ in rows(text, "By kind")}
    assert sum(kinds.values()) == len(quality.tensors)
    assert (kinds["token_embd"], kinds["ffn_down"]) == (1, 24)
    assert all_of(text, "dd")[:3] == ["0.0214", "nats on average; standard error 0.0006", "93.81 %"]
    assert "95 % interval 1.0082 to 1.0153, above 1: a loss" in text_of(text)
    total = sum(tensor.divergence or 0 for tensor in quality.tensors)
    assert f"The parts add up to {total:.3g} nats, but the whole bundle is 0.0214 away" in text_of(text)
    assert {"ca" * 32, "ad" * 32, "e7" * 32, "5c" * 32} <= set(all_of(text, "code"))


def test_the_bundle_is_described() -> None:
    quality = make_quality()
    assert facts(default_page()) == {
        "Version": "3",
        "Licence": "apache-2.0",
        "Quantization": "IQ4_NL-MIX; 5.92 bits per weight",
        "Read for each token": "286.0 MB of weights",
        "Vocabulary": "65,536 of 151,936 tokens",
        "Trained after rounding": "levels, scales, norms and biases of each block",
        "Target": "armv8.2-dotprod",
        "Adapter": "adapter.gguf, applied in all comparisons",
        "Calibration texts": "factory + general",
        "Evaluation texts": "evaluation: 24,552 of 24,576 tokens are compared",
        "Compared with": "the unquantized model as BF16",
        "Canaries": "8 with recorded answers",
    }
    bare = dataclasses.replace(quality.bundle, licence=None, adapter_sha256=None, canaries=0)
    plain = facts(render_page(dataclasses.replace(quality, bundle=bare, tensors=())))
    assert [plain[name] for name in ("Licence", "Adapter", "Canaries")] == ["not stated", "none", "none"]


def test_without_tasks_and_measured_tensors_their_parts_are_left_out() -> None:
    quality = make_quality(layers=1)
    page = render_page(
        dataclasses.replace(
            quality,
            comparison=dataclasses.replace(quality.comparison, tasks=()),
            tensors=tuple(dataclasses.replace(tensor, divergence=None) for tensor in quality.tensors),
        )
    )
    assert "Answers to tasks" not in all_of(page, "h2")
    assert "How much each tensor adds was not measured." in text_of(page)
    assert "var(--heat-" not in re.sub("<style>.*</style>", "", page, flags=re.DOTALL)


def test_a_scaled_figure_is_not_called_measured() -> None:
    quality = make_quality(layers=2)
    tensors = tuple(
        dataclasses.replace(tensor, is_scaled=tensor.type == "Q8_0" and tensor.divergence is not None)
        for tensor in quality.tensors
    )
    scaled = {tensor.name for tensor in tensors if tensor.is_scaled}
    text = render_page(dataclasses.replace(quality, tensors=tensors))

    assert {name for name, *_, how in rows(text, "One row") if how == "scaled"} == scaled
    assert f"The other {len(scaled)} were measured with their smallest type" in text_of(text)
    assert "nats (scaled)" in text
    assert "were measured with their smallest type" not in default_page()


def test_zeros_can_be_shown() -> None:
    quality = make_quality()
    comparison = dataclasses.replace(
        quality.comparison,
        divergence=dataclasses.replace(
            quality.comparison.divergence,
            **dict.fromkeys(("mean", "error", "median", "p90", "p99", "max"), 0.0),
            top1_agreement=1.0,
        ),
    )
    zero = dataclasses.replace(
        quality,
        comparison=comparison,
        tensors=tuple(dataclasses.replace(tensor, divergence=0.0) for tensor in make_tensors(2)),
        sizes=(*quality.sizes[-2:], Size(name="F16", bytes=0, ram_bytes=0, divergence=0.0, is_own=False)),
    )
    shown = text_of(render_page(zero))
    assert "a divergence of 0 has no place on this scale: F16." in shown
    assert "a different one" not in shown


def test_names_of_marks_stay_inside_of_the_chart_and_do_not_overlap() -> None:
    quality = make_quality(layers=1)
    [own] = [size for size in quality.sizes if size.is_own]
    crowd = [dataclasses.replace(own, name=f"--type q{at}", bytes=own.bytes + at, is_own=False) for at in range(9)]
    page = document(render_page(dataclasses.replace(quality, sizes=(*quality.sizes, *crowd))))
    chart = next(drawing for drawing in page.iter("svg") if "Size" in drawing.attrib["aria-label"])
    names = {"".join(text.itertext()) for text in chart.iter("text")}
    assert {"this bundle", "Q8_0", "Q4_K_M", "q0"} <= names
    assert len(names & {f"q{at}" for at in range(9)}) < 4


def test_each_matrix_has_a_cell_and_a_darker_one_diverges_more() -> None:
    page, tensors = document(default_page()), make_quality().tensors
    levels = {}
    for cell in page.iter("g"):
        if (note := cell.findtext("title")) is not None:
            [path] = cell.iter("path")
            levels[note.partition(":")[0]] = int(path.attrib["style"].partition("heat-")[2][0])
    assert levels.keys() == {tensor.name for tensor in tensors}
    rising = sorted(tensors, key=lambda tensor: tensor.divergence or 0)
    assert [levels[tensor.name] for tensor in rising] == sorted(levels.values())
    assert set(levels.values()) == set(range(7))
    edges = heat_edges(tensors)
    assert (len(edges), edges) == (6, sorted(edges))

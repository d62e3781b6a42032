"""quality.html: well-formed, alone in the world, and it says what quality.json says."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from convert.report.page import page
from convert.report.quality import Quality, Size, Task, Tensor
from tests.convert.qualities import make_quality, make_tensors
from tests.convert.test_figures import number

HOSTILE = "<script src=//evil>&\"'</title><img src=x onerror=alert(1)>\N{RIGHT-TO-LEFT OVERRIDE}"


class Page(HTMLParser):
    """All tags, balanced or it raises, and all texts, tables and headings."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data.replace("\N{NO-BREAK SPACE}", " ")))

    def all_of(self, tag: str) -> list[str]:
        return [text for found, text in self.texts if found == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("style", "script"))


def rows(text: str, caption: str) -> Iterator[list[str]]:
    """The cells of each row of one table."""
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    (table,) = [table for table in root.iter("table") if (table.findtext("caption") or "").startswith(caption)]
    for row in table.findall("tbody/tr"):
        yield ["".join(cell.itertext()).replace("\N{NO-BREAK SPACE}", " ") for cell in row]


def facts(quality: Quality) -> dict[str, str]:
    root = ET.fromstring(page(quality, "pump model").removeprefix("<!DOCTYPE html>\n"))
    (found,) = [one for one in root.iter("dl") if one.get("class") == "facts"]
    return {row.findtext("dt") or "": row.findtext("dd") or "" for row in found}


@pytest.mark.parametrize("layers", [24, 28, 48])
def test_the_page_is_well_formed(layers: int) -> None:
    text = page(make_quality(layers), "pump model")
    Page(text)
    ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = page(make_quality(), "pump model")
    found = Page(text)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object", "embed", "image", "use"}
    names = {name for _, attributes in found.tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "style", "action")}
    assert not re.search(r"https?:|url\(|@import|//", text)
    assert ("meta", "default-src 'none'; style-src 'unsafe-inline'") in [
        (tag, attributes.get("content")) for tag, attributes in found.tags
    ]


def test_text_from_outside_stays_text() -> None:
    quality = make_quality()
    assert quality.texts is not None
    assert quality.reference is not None
    assert quality.bundle is not None
    hostile = dataclasses.replace(
        quality,
        reference=dataclasses.replace(quality.reference, type=HOSTILE),
        texts=dataclasses.replace(quality.texts, name=HOSTILE),
        tasks=(Task(name=HOSTILE, kind=HOSTILE, examples=3, accuracy=1.0, reference_accuracy=1.0),),
        tensors=(
            *quality.tensors,
            Tensor(name=HOSTILE, type=HOSTILE, bytes=1, divergence=1.0),
            Tensor(name="output.weight", type=HOSTILE, bytes=1, divergence=0.1),
        ),
        sizes=(*quality.sizes, Size(name=HOSTILE, bytes=353_000_000, ram_bytes=None, divergence=0.05, is_own=False)),
        bundle=dataclasses.replace(quality.bundle, licence=HOSTILE, quantization=HOSTILE, target=HOSTILE),
        speeds=tuple(dataclasses.replace(speed, board=HOSTILE, source=HOSTILE) for speed in quality.speeds),
    )
    text = page(hostile, HOSTILE)
    found = Page(text)
    assert not {tag for tag, _ in found.tags} & {"script", "img"}
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    shown = HOSTILE.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\\u202e")
    assert found.all_of("h1") == [shown]
    assert found.text.count("onerror") > 10


def test_drawings_and_tables_are_told_to_who_cannot_see_them() -> None:
    found = Page(page(make_quality(), "pump model"))
    drawings = [attributes for tag, attributes in found.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(drawings) == 6
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        assert {drawing["aria-labelledby"], drawing["aria-describedby"]} <= set(ids)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in found.tags if tag == "th")
    tables = sum(tag == "table" for tag, _ in found.tags)
    assert tables == len(found.all_of("caption")) == 7


def test_the_tables_hold_the_figures_of_the_document() -> None:
    quality = make_quality()
    divergence, perplexity = quality.divergence, quality.perplexity
    assert divergence is not None
    assert perplexity is not None
    text = page(quality, "pump model")
    told = dict(rows(text, "KL divergence"))
    assert [number(value) for value in list(told.values())[:-1]] == [
        *(divergence.mean, divergence.error, divergence.median, divergence.p90, divergence.p99, divergence.max),
    ]
    assert told["same first choice"] == "93.81 %"
    assert [value for _, value in rows(text, "Perplexity")] == ["1.0117", "1.0082 to 1.0153", "14.270", "14.105"]
    assert {name: (float(mb), number(nats)) for name, mb, _, nats in rows(text, "Copied on loading")} == {
        ("this bundle: " if size.is_own else "") + size.name: (round(size.bytes / 1e6, 1), size.divergence)
        for size in quality.sizes
    }
    for tensor, (name, kind, nbytes, nats, how) in zip(quality.tensors, rows(text, "One row"), strict=True):
        assert (name, kind, nbytes) == (tensor.name, tensor.type, f"{tensor.bytes:,}")
        assert how == ("–" if tensor.divergence is None else "measured")
        assert (None if nats == "–" else number(nats)) == tensor.divergence
    for speed, (board, rate, gb_s, source) in zip(quality.speeds, rows(text, "Bandwidth"), strict=True):
        assert (board, source) == (speed.board, speed.source)
        assert float(rate) == pytest.approx(speed.tokens_per_s, rel=5e-3)
        assert float(gb_s) == pytest.approx(speed.bandwidth_gb_s, rel=5e-3)
    assert list(rows(text, "Right answers")) == [
        ["pump state (classify)", "375 of 400: 93.8 % (90.9 to 95.7)", "94.2 %", "−0.5 (−2.0 to +1.0)"],
        ["alarm text (extract)", "221 of 250: 88.4 % (83.8 to 91.8)", "88.0 %", "+0.4"],
        ["shift log (classify)", "108 of 120: 90.0 % (83.3 to 94.2)", "–", "–"],
    ]
    kinds = {kind: int(count) for kind, count, *_ in rows(text, "By kind")}
    assert sum(kinds.values()) == len(quality.tensors)
    assert kinds["ffn_down"] == 24


def test_the_headline_tells_the_main_figures() -> None:
    quality = make_quality()
    found = Page(page(quality, "pump model"))
    shown = found.text
    assert found.all_of("dd")[:3] == ["0.0214", "nats on average; standard error 0.0006", "93.8 %"]
    assert "95 % interval 1.0082 to 1.0153, above 1: a loss" in shown
    assert "on disk; loading copies 71.3 MB of it into anonymous memory (computed)" in shown
    assert "365.6 MB" in shown
    assert "PREDICTED" in found.all_of("span")
    assert "e7" * 32 in shown
    assert "5c" * 32 in shown


def test_what_the_bundle_is_is_told() -> None:
    quality = make_quality()
    assert quality.bundle is not None
    assert facts(quality) == {
        "Version": "3",
        "Licence": "apache-2.0",
        "Quantization": "IQ4_NL-MIX, mostly IQ4_NL and Q8_0; 5.92 bits per weight",
        "Target": "armv8.2-dotprod (Pi 5, RK3588, Orin)",
        "Adapter": "adapter.gguf, applied in all comparisons",
        "Calibration texts": "factory + general",
        "Evaluation texts": "evaluation: 24,552 of 24,576 tokens are compared",
        "Compared with": "the unquantized model as BF16",
        "Canaries": "8 requests with recorded answers",
    }
    assert {"ca" * 32, "ad" * 32} <= set(Page(page(quality, "pump model")).all_of("code"))
    plain = dataclasses.replace(quality.bundle, licence=None, calibration=None, adapter_sha256=None, canaries=0)
    told = facts(dataclasses.replace(quality, bundle=plain))
    assert told["Licence"] == "not stated"
    assert [told[name] for name in ("Adapter", "Calibration texts", "Canaries")] == ["none"] * 3


def test_what_an_older_document_does_not_tell_is_said_to_be_unknown() -> None:
    older = dataclasses.replace(make_quality(), bundle=None)
    assert facts(older)["Quantization"] == "mostly IQ4_NL and Q8_0"
    assert facts(older).keys() == {"Quantization", "Evaluation texts", "Compared with"}
    unknown = "Version, licence, target, adapter, calibration texts and canaries are not known here"
    assert unknown in Page(page(older, "pump model")).text
    assert unknown not in Page(page(make_quality(), "pump model")).text


def test_the_sum_of_the_parts_is_explained_beside_the_whole() -> None:
    quality = make_quality()
    total = sum(tensor.divergence or 0 for tensor in quality.tensors)
    assert f"All parts together are {total:.4f} nats, the whole bundle is 0.0214 away" in Page(page(quality, "m")).text


@pytest.mark.parametrize(
    ("part", "heading"),
    [
        ("tasks", "Answers to tasks"),
        ("sizes", "Size and divergence"),
        ("tensors", "Where the divergence comes from"),
        ("speeds", "Speed, predicted"),
    ],
)
def test_a_part_that_is_missing_leaves_its_section_out(part: str, heading: str) -> None:
    nothing: Any = ()
    whole, without = make_quality(), dataclasses.replace(make_quality(), **{part: nothing})
    assert heading in Page(page(whole, "pump model")).all_of("h2")
    assert heading not in Page(page(without, "pump model")).all_of("h2")


def test_a_page_of_nothing_is_a_page() -> None:
    found = Page(page(Quality(), "pump model"))
    assert found.all_of("h2") == ["Method"]
    assert not {tag for tag, _ in found.tags} & {"svg", "table", "dl"}


def test_without_divergences_there_is_no_empty_plot() -> None:
    quality = make_quality()
    unknown = dataclasses.replace(
        quality,
        divergence=None,
        perplexity=None,
        speeds=(),
        tensors=tuple(dataclasses.replace(tensor, divergence=None) for tensor in quality.tensors),
        sizes=tuple(dataclasses.replace(size, divergence=None, ram_bytes=None) for size in quality.sizes),
    )
    found = Page(page(unknown, "pump model"))
    assert not [tag for tag, _ in found.tags if tag == "svg"]
    assert "What the figures mean" not in found.all_of("h2")
    assert "Where the divergence comes from" in found.all_of("h2")
    assert "Which tensor adds how much was not measured." in found.text


def test_a_figure_that_was_scaled_is_not_told_as_measured() -> None:
    quality = make_quality()
    tensors = tuple(
        dataclasses.replace(tensor, is_scaled=tensor.type == "Q8_0" and tensor.divergence is not None)
        for tensor in quality.tensors
    )
    scaled = {tensor.name for tensor in tensors if tensor.is_scaled}
    text = page(dataclasses.replace(quality, tensors=tensors), "pump model")

    assert {name for name, *_, how in rows(text, "One row") if how == "scaled"} == scaled
    assert f"The other {len(scaled)} were measured with their smallest type" in Page(text).text
    assert "nats (scaled)" in text
    assert "were measured with their smallest type" not in Page(page(quality, "pump model")).text


def test_what_others_are_is_told_where_a_type_alone_made_them() -> None:
    quality = make_quality()
    told = "what edge-convert with this --type and nothing else makes"
    assert told not in Page(page(quality, "pump model")).text
    named = tuple(dataclasses.replace(size, name=f"--type {size.name.lower()}") for size in quality.sizes)
    assert told in Page(page(dataclasses.replace(quality, sizes=named), "pump model")).text


def test_zeros_and_single_figures_can_be_shown() -> None:
    quality = make_quality()
    assert quality.divergence is not None
    zero = dataclasses.replace(
        quality,
        divergence=dataclasses.replace(
            quality.divergence, mean=0.0, error=None, median=0.0, p90=0.0, p99=0.0, max=0.0, top1_agreement=1.0
        ),
        tensors=tuple(dataclasses.replace(tensor, divergence=0.0) for tensor in make_tensors(2)),
        sizes=(*quality.sizes[:2], Size(name="F16", bytes=0, ram_bytes=0, divergence=0.0, is_own=False)),
        speeds=quality.speeds[:1],
    )
    shown = Page(page(zero, "pump model")).text
    assert "a divergence of 0 has no place on this scale: F16." in shown
    assert "a different one" not in shown


def test_who_is_better_is_told_even_if_it_is_not_us() -> None:
    quality = make_quality()
    shown = Page(page(quality, "pump model")).text
    assert "Nearest in size is Q4_0: this bundle is 3.6 % larger and its divergence is 4.1 times smaller." in shown
    assert "None of the others is both smaller and closer." in shown
    worse = tuple(dataclasses.replace(size, bytes=600_000_000) if size.is_own else size for size in quality.sizes)
    shown = Page(page(dataclasses.replace(quality, sizes=worse), "pump model")).text
    assert "Both smaller and closer: Q8_0, Q6_K, Q5_K_M." in shown

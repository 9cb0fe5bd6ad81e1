from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from report_data import NEEDLES, POINTS, layer, manifest, results, write

from tqc.artifact import read_manifest
from tqc.artifact.embed import embed_report
from tqc.eval.report import first_page, read_report, render


class Page(HTMLParser):
    """What a page has: text of each section, addresses that would be loaded, data of the figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.section, self.texts, self.loads, self.figures, self.policy = "", {}, [], [], ""
        self.kind = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.kind = tag if tag in ("script", "style") else ""
        if tag == "script" and given.get("type") == "application/json":
            self.kind = "figure"
        if tag == "section":
            self.section = given["id"]
        if tag == "link":
            self.loads.append(given)
        self.loads += [value for name, value in attributes if name in ("src", "srcset", "data", "poster", "action")]
        if tag == "a":
            assert given["href"].startswith("#")
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_endtag(self, tag):
        self.kind = ""
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if self.kind == "figure":
            self.figures.append((self.section, json.loads(data)))
        elif self.kind == "style":
            self.loads += re.findall(r"url\(|@import", data)
        elif not self.kind:
            self.texts[self.section] = self.texts.get(self.section, "") + data


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two artifacts, the evaluation of the first one, points and needles."""
    folder = tmp_path_factory.mktemp("report")
    first = write(folder / "first.tqc")
    second = write(folder / "second.tqc", manifest([layer("tq3", "tq2", 3, 2), layer(), layer()]))
    files = {"eval": results(read_manifest(first)).model_dump_json()}
    files |= {"points": json.dumps(POINTS), "needles": json.dumps(NEEDLES)}
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return first, second, *(folder / f"{name}.json" for name in files)


@pytest.fixture(scope="module")
def whole(inputs):
    first, second, evaluation, points, needles = inputs
    found = read_report([first, second], [evaluation], points, needles, made="today", command="tqc report …")
    return Page(render(found))


def test_nothing_is_loaded(whole):
    assert whole.loads == []
    assert whole.policy.startswith("default-src 'none';")


def test_every_section_has_its_numbers(whole):
    for section, texts in {
        "": ("first, second", "today", "tqc report …"),
        "summary": ("3.76×", "98.05 %", "+0.25 %", "mixed 3.75 bits", "9 of 16"),
        "bits": ("3.25", "2.25", "4.25", "K of 2, V of 2 layers"),
        "memory": ("RTX 4090 24 GB", "B200 192 GB", "131,072 tokens"),
        "noise": ("Queries: random directions.",),
        "rate": ("made-up model", "q4_0", "codec only in evaluation", "0.0114", "6,120"),
        "needles": ("tq2.5", "58.3 %", "123", "43.5 MB", "first: two keys"),
        "origin": ("python points.py", "python needles.py", "Made-up GPU", "2026-01-02 04:05 UTC", "tqc compile"),
    }.items():
        for text in texts:
            assert text in whole.texts[section], (section, text)


def test_every_figure_has_its_data(whole):
    found = {}
    for section, figure in whole.figures:
        found.setdefault(section, []).append(figure)
    assert {section: len(figures) for section, figures in found.items()} == {
        "memory": 1,
        "distortion": 1,
        "noise": 1,
        "rate": 1,
    }
    assert found["distortion"][0]["data"][0]["y"] == [0.0081, 0.0082, 0.0083, 0.0084]
    assert {trace["name"] for trace in found["memory"][0]["data"]} >= {"first", "second"}


def test_what_is_missing_says_which_command_makes_it(inputs):
    page = Page(render(read_report(inputs[:1])))
    for section, command in {
        "summary": "tqc eval",
        "distortion": "tqc eval",
        "noise": "tqc eval",
        "rate": "--points",
        "needles": "tqc eval",
    }.items():
        assert command in page.texts[section], section
    assert [section for section, _ in page.figures] == ["memory"]


def test_artifacts_over_one_text_are_points_themselves(inputs, tmp_path):
    first, second, *_ = inputs
    files = []
    for artifact, kl in ((first, 0.0017), (second, 0.0114)):
        document = results(read_manifest(artifact))
        files.append(tmp_path / f"{artifact.stem}.json")
        fidelity = document.fidelity.model_copy(update={"kl": kl})
        files[-1].write_text(document.model_copy(update={"fidelity": fidelity}).model_dump_json())
    points = read_report([first, second], files).points.points
    assert [(point.name, point.kl) for point in points] == [("tq4", 0.0017), ("mixed 3.75 bits", 0.0114)]
    assert read_report([first, second], files[:1]).points is None


def test_a_page_without_figures_is_small_static_and_always_the_same(inputs):
    report = read_report(inputs[:1])
    html = render(report, interactive=False)
    assert "<script" not in html
    assert len(html) < 40_000
    assert html == render(read_report(inputs[:1]), interactive=False)
    page = Page(html)
    assert page.loads == []
    assert set(page.texts) == {"", "summary", "bits", "memory", "origin"}


def test_the_first_page_depends_on_what_was_compiled_alone(inputs, tmp_path):
    again = write(tmp_path / "elsewhere.tqc")
    page = first_page(read_manifest(inputs[0]))
    assert page == first_page(read_manifest(again))
    assert page == first_page(embed_report(again, page))
    assert b"3.76" in page
    assert b"elsewhere" not in page


def test_text_of_others_is_escaped(tmp_path):
    compiled = manifest(command_line=("tqc", "compile", "<script>alert(1)</script>.onnx"))
    points = POINTS | {"points": [*POINTS["points"], {"name": "</script><b>", "bits_per_value": 5, "kl": 0.1}]}
    (tmp_path / "p.json").write_text(json.dumps(points))
    html = render(read_report([write(tmp_path / "a.tqc", compiled)], points=tmp_path / "p.json"))
    assert "<script>alert" not in html
    assert "</script><b>" not in html
    assert "</script><b>" in Page(html).texts["rate"]

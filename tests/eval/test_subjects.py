from __future__ import annotations

import json

import pytest
from report_data import DIM, HEADS, layer, manifest, results, write

from tqc.artifact import read_manifest
from tqc.artifact.embed import embed_report
from tqc.errors import TqcError
from tqc.eval.report_memory import cache_bytes
from tqc.eval.subjects import Subject, bits_per_value, grouped, pair_name, read_subjects


def test_names_of_pairs():
    assert pair_name("tq4", "tq4") == "tq4"
    assert pair_name("tq4", "tq3") == "k4v3"
    assert pair_name("qjl3", "tq3") == "k:qjl3,v:tq3"
    assert pair_name("tq2.5", "tq2") == "k:tq2.5,v:tq2"


def test_bits_of_layers_and_of_all():
    one = layer("tq3", "tq2", 3, 2)
    assert bits_per_value(one, "k") == 3 + 16 / DIM
    assert bits_per_value(one, "v") == 2 + 16 / DIM
    assert Subject("a", manifest([one] * 2)).bits == 2.5 + 16 / DIM
    assert Subject("a", manifest([one] * 2)).schemes == "k3v2"
    assert one.bytes_per_token_k == HEADS * 26
    mixed = Subject("a", manifest([one, layer()]))
    assert mixed.schemes == "mixed 3.50 bits"
    assert grouped([one, layer(), layer()]) == [("0", one), ("1–2", layer())]


def test_artifacts_of_one_scheme_are_drawn_with_different_lines(tmp_path):
    folders = [write(tmp_path / f"{name}.tqc", manifest(max_context=size)) for name, size in (("a", 64), ("b", 128))]
    other = write(tmp_path / "c.tqc", manifest([layer("tq2", "tq2", 2, 2)]))
    found = read_subjects([*folders, other])
    assert [(s.name, s.dash) for s in found] == [("a", "solid"), ("b", "dash"), ("c", "solid")]
    assert found[0].colour == found[1].colour != found[2].colour


def test_same_names_have_their_folders(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "m.tqc")
    assert [s.name for s in read_subjects([tmp_path / "x" / "m.tqc", tmp_path / "y" / "m.tqc"])] == ["x/m", "y/m"]


def test_evaluations_find_their_artifact_also_with_a_report_in_it(tmp_path):
    first = write(tmp_path / "a.tqc")
    second = write(tmp_path / "b.tqc", manifest(max_context=64))
    file = tmp_path / "e.json"
    file.write_text(results(read_manifest(second)).model_dump_json())
    embed_report(second, b"page")
    found = read_subjects([first, second], [file])
    assert found[0].results is None
    assert found[1].results.fidelity.kl == 0.0017


def test_of_two_evaluations_the_later_section_counts(tmp_path):
    artifact = write(tmp_path / "a.tqc")
    whole = results(read_manifest(artifact))
    only = whole.model_copy(
        update={"layers": None, "retrieval": None, "fidelity": whole.fidelity.model_copy(update={"kl": 0.5})}
    )
    files = []
    for name, document in (("1.json", whole), ("2.json", only)):
        files.append(tmp_path / name)
        files[-1].write_text(document.model_dump_json())
    (found,) = read_subjects([artifact], files)
    assert found.results.fidelity.kl == 0.5
    assert found.results.layers == whole.layers


def test_an_evaluation_of_something_else_is_refused(tmp_path):
    artifact = write(tmp_path / "a.tqc")
    document = json.loads(results(read_manifest(artifact)).model_dump_json())
    document["artifact"] |= {"digest": "f" * 64, "name": "a"}
    file = tmp_path / "e.json"
    file.write_text(json.dumps(document))
    with pytest.raises(TqcError, match="compiled again since"):
        read_subjects([artifact], [file])
    document["artifact"]["name"] = "z"
    file.write_text(json.dumps(document))
    with pytest.raises(TqcError, match="pass its artifact, too"):
        read_subjects([artifact], [file])


def test_retrieval_becomes_a_panel_for_each_task():
    compiled = manifest()
    subject = Subject("a", compiled, results(compiled))
    one, two = subject.panels
    assert (one.cache, two.cache) == ("a: one key", "a: two keys")
    assert one.at(4096, 0.5) == 0.75
    assert [(c.length, c.cache_bytes) for c in one.costs] == [(4096, cache_bytes(compiled, 4096))]
    assert Subject("a", compiled).panels == []

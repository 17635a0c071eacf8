"""benchmarks/variants.py: each variant is another network of about the same size; table and picture agree."""

import json
import sys
from dataclasses import replace

import pytest

from conftest import ROOT, run_script
from folio.networks import build as networks
from Model_Params import ModelParams
from test_quality import table_of

sys.path.insert(0, str(ROOT / "benchmarks"))

import variants  # noqa: E402  (after the change of sys.path)

pytest.importorskip("matplotlib")


def run_of(variant, seed, nats):
    return {"recipe": variant, "seed": seed, "windows": nats, "sliding": nats, "random": nats, "256 bytes": nats,
            "best": nats, "steps": 100 + seed,
            "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_megabytes": None, "parameters": 1000}


def test_variants_are_trained_by_the_script_and_shown(plays, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(plays[:20_000], encoding="utf-8", newline="\n")
    done = run_script("benchmarks/variants.py", "--text", text, "--variants", "no-query-key-norm", "--seeds", 1,
                      "--steps", 2, "--jobs", 2, "--json", tmp_path / "results.json",
                      "--picture", tmp_path / "results.svg")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["holdout"] is True and written["bytes"] == len(plays[:18_000].encode())
    [run] = written["runs"]
    heads, [row] = table_of(done.stdout)
    assert row[:3] == ["no-query-key-norm", "`--no-query-key-norm`", f"{run['windows']:.3f}"]
    assert row[4:] == [f"{run['parameters']:,}", "2"]
    assert "no-query-key-norm" in (tmp_path / "results.svg").read_text(encoding="utf-8")


def test_each_variant_is_another_network_of_about_the_same_size():
    sizes = {}
    for variant, values in variants.VARIANTS.items():
        net = networks.build_network(replace(ModelParams(vocab_size=1024), **variants.SIZE | values))
        sizes[variant] = (str(net), net.params)
        blocks = sum(parameter.numel() for parameter in net.blocks.parameters())
        assert 0.85 < blocks / 801_536 < 1.15, (variant, blocks)             # of the default's 4 layers of width 128
    assert len(set(map(str, sizes.values()))) == len(variants.VARIANTS)


def test_the_best_comes_first_and_all_are_compared_with_the_default():
    runs = [run_of("folio", 1, 1.5), run_of("relu2", 1, 1.3), run_of("folio", 2, 1.7), run_of("relu2", 2, 1.5),
            run_of("wide", 1, 2.0)]
    heads, rows = table_of("\n".join(variants.markdown(runs)))
    assert [row[0] for row in rows] == ["relu2", "folio", "wide"]
    assert [row[3] for row in rows] == ["-0.200", "", "+0.400"]
    assert rows[0][2] == "1.400 ± 0.141"
    assert rows[2][2] == "2.000"
    assert rows[0][5] == "101 to 102"
    axis = next(axis for axis in variants.variants_figure(runs, "plays").axes if axis.get_label() == "variants")
    dots = {line.get_label(): list(line.get_xdata()) for line in axis.lines if not line.get_label().startswith("_")}
    assert dots == {"relu2": [1.3, 1.5], "folio": [1.5, 1.7], "wide": [2.0]}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["relu2", "folio", "wide"]

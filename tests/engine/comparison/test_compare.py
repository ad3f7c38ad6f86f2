"""Runs side by side: rows, means, the paired test against scipy, every format."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from crossreid.engine.commands.compare import main
from crossreid.engine.comparison.groups import compare, correlations, group_runs
from crossreid.engine.comparison.runs import find_runs, read_run
from crossreid.engine.comparison.statistics import holm, mean_aps, mean_deviation, paired, rank_correlation
from crossreid.engine.comparison.table import Table
from crossreid.engine.errors import InputError
from tests.engine.comparison.runs import write_run

RANDOM = np.random.default_rng(7)
BASE = RANDOM.uniform(0.2, 0.9, 40)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two settings of EPS under two seeds; the second finds every query a little better."""
    for eps, gain in (("0.7", 0.0), ("0.8", 0.05)):
        for seed in (0, 1):
            aps = [*(BASE + gain + RANDOM.normal(0, 0.02, 40)).tolist(), None]
            curve = [0.3, 0.5 + gain, 0.6 + gain + 0.02 * seed]
            overrides = ["CAMERA_AWARE.EPS", eps, "SEED", str(seed), "LOG.PERIOD", str(7 + seed)]
            write_run(tmp_path, f"e{eps}-{seed}", overrides, curve, aps, silhouette=0.4 + gain)
    return tmp_path


def test_runs_that_differ_by_their_seed_are_one_row(runs: Path) -> None:
    records = [read_run(folder) for folder in find_runs([str(runs)])]
    columns, groups = group_runs(records)
    assert columns == ["EPS"]
    assert [(group.label, len(group.records)) for group in groups] == [("EPS 0.7", 2), ("EPS 0.8", 2)]
    table = compare("test", columns, groups, metrics=["mAP", "silhouette"])
    assert table.rows[0][:4] == ["0.7", "2", "61.0 ± 1.4", "0.400 ± 0.000"]
    assert table.rows[1][:4] == ["0.8", "2", "66.0 ± 1.4", "0.450 ± 0.000"]


def test_the_row_of_differences_is_the_paired_test_of_scipy(runs: Path) -> None:
    columns, groups = group_runs([read_run(folder) for folder in find_runs([str(runs / "logs")])])
    row = compare("test", columns, groups).rows[1]
    first, second = (np.array([r.aps[:40] for r in group.records], dtype=float).mean(0) for group in groups)
    expected = stats.ttest_rel(second, first)
    low, high = expected.confidence_interval()
    gap = 100 * (second - first).mean()
    assert row[-2] == f"{gap:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    assert row[-1] == f"{expected.pvalue:.2g}"


def test_statistics_by_their_formulas() -> None:
    values = [0.1, 0.4, 0.35, math.nan]
    finite = np.array(values[:3], dtype=np.float64)
    mean = finite.sum() / 3
    assert mean_deviation(values) == pytest.approx((mean, math.sqrt(((finite - mean) ** 2).sum() / 2)))
    assert mean_deviation([0.5])[0] == 0.5
    assert math.isnan(mean_deviation([0.5])[1])
    a, b = RANDOM.random(30), RANDOM.random(30)
    a[3], b[7] = math.nan, math.nan
    kept = np.delete(b - a, [3, 7])
    error = kept.std(ddof=1) / math.sqrt(28)
    found = paired(a, b)
    assert found is not None
    assert found.queries == 28
    assert found.difference == pytest.approx(kept.mean())
    assert found.p == pytest.approx(2 * stats.t.sf(abs(kept.mean() / error), 27))
    assert (found.low, found.high) == pytest.approx(
        kept.mean() + np.array([-1, 1]) * stats.t.ppf(0.975, 27) * error
    )
    assert paired(a, a) is None
    assert paired(a, b[:-1]) is None
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert mean_aps([[0.1, None], [0.3, None]])[0] == pytest.approx(0.2)
    assert not len(mean_aps([[0.1], [0.3, 0.2]]))
    x, y = RANDOM.random(9), RANDOM.random(9)
    ranks = np.argsort(np.argsort(x)), np.argsort(np.argsort(y))
    assert rank_correlation(x.tolist(), y.tolist()) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_every_format_holds_the_same_cells(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [runs / f"out/table.{kind}" for kind in ("txt", "md", "tex", "csv", "html")]
    outs = [word for file in files for word in ("--out", str(file))]
    main([str(runs / "logs/e0.7-0"), str(runs / "logs/e0.8-1"), *outs, "--curves", str(runs / "curves.png")])
    shown = capsys.readouterr().out
    text, markdown, latex, table, page = (file.read_text() for file in files)
    for cell in ("0.7", "60.0", "67.0"):
        assert all(cell in content for content in (shown, text, markdown, latex, table, page))
    rows = list(csv.DictReader(io.StringIO(table)))
    assert rows[1]["EPS"] == "0.8"
    assert rows[1]["command"].endswith("logs/e0.8-1/config.yml NAME e0.8-1-again")
    assert "| 0.7 | 1 | 60.0 |" in markdown
    assert r"\begin{tabular}{l" in latex
    assert "data:image/png;base64," in page
    assert Image.open(runs / "curves.png").size[0] > 400


def test_odd_characters_break_no_format() -> None:
    table = Table("a & b", ["x|y", "50 %"], [["<b>_1", "2 ± 1"]], commands=[("<b>", "run --a 'b_c'")])
    assert "| x\\|y | 50 % |" in table.markdown()
    assert r"<b>\_1 & 2 $\pm$ 1 \\" in table.latex()
    body = table.html().partition("<table>")[2].partition("</table>")[0]
    assert ElementTree.fromstring(f"<table>{body}</table>").find(".//td").text == "<b>_1"  # type: ignore[union-attr]


def test_other_methods_keys_are_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path, "a", ["ECN.LAMBDA", "0.5"], [0.5], [0.5])
    write_run(tmp_path, "b", ["SOLVER.LR", "0.004"], [0.5], [0.5])
    assert group_runs([read_run(folder) for folder in find_runs([str(tmp_path)])])[0] == ["LR"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{}/nowhere"], "no run there: give logs/NAME"),
        (["{}", "--out", "{}/x.pdf"], "a table is written as .txt, .md, .tex, .csv, .html"),
        (["{}", "--baseline", "3"], "there are rows 1 to 2"),
        (["{}", "--read", "direct transfer"], "has no evaluation 'direct transfer' yet"),
        (["{}", "--curves", "{}/x.gif"], "curves are drawn as .png"),
    ],
)
def test_bad_input_ends_in_one_line(
    runs: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([word.format(runs) for word in arguments])
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_a_damaged_line_is_named_and_an_unfinished_one_left_out(runs: Path) -> None:
    file = runs / "logs/e0.7-0/metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 40, "title": "fin')
    assert len(read_run(file.parent).evaluations) == 3
    file.write_text('{"title": "final", "step": }\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 1 is damaged"):
        read_run(file.parent)


def test_criteria_are_held_against_map_over_runs_and_over_epochs(tmp_path: Path) -> None:
    finals = [0.5, 0.62, 0.55, 0.7, 0.66]
    densities = [1.0, 3.0, 2.0, 4.0, 5.0]
    for seed, (final, density) in enumerate(zip(finals, densities)):
        curve = [0.1, 0.3, 0.2, 0.4, final]
        write_run(tmp_path, f"run-{seed}", ["SEED", str(seed)], curve, [0.5], density=density)
    records = [read_run(folder) for folder in find_runs([str(tmp_path)])]
    over_runs = stats.spearmanr(densities, finals).statistic
    over_epochs = stats.spearmanr(range(5), [0.1, 0.3, 0.2, 0.4, 0.5]).statistic  # the criterion rises evenly
    assert correlations(records) == [
        f"Rank correlation (Spearman) with mAP over 5 runs, last epoch: density {over_runs:+.2f}.",
        f"Over the epochs of a run, mean of the runs: density {over_epochs:+.2f} (5).",
    ]
    assert len(correlations(records[:4])) == 1  # too few runs, but five epochs each

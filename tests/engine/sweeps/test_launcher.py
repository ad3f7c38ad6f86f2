"""The launcher with a stand-in for training: failed, pruned, stopped and proposed runs."""

from __future__ import annotations

import csv
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from crossreid import configs
from crossreid.engine.commands.sweep import main
from crossreid.engine.sweeps import launcher, slots
from crossreid.engine.sweeps.asked import Wishes, read_sweep
from crossreid.engine.sweeps.pruning import behind, last_start
from tests.engine.sweeps.stand_in import __file__ as STAND_IN


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "PROGRAM", [sys.executable, str(Path(STAND_IN).resolve())])
    monkeypatch.setattr(launcher, "PAUSE", 0.02)
    monkeypatch.setattr(launcher, "BEAT", 0.05)


def sweep(out: Path, *words: str, code: int = 0) -> list[dict[str, str]]:
    """Run a sweep in this process; the lines of its ``trials.csv``."""
    arguments = ["configs/demo.yml", f"OUTPUT_DIR={out}", "NAME=s", *words]
    if code:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == code
    else:
        main(arguments)
    path = out / "sweeps/s/trials.csv"
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_grid_runs_once_and_can_be_extended(tmp_path: Path) -> None:
    found = sweep(tmp_path, "CAMERA_AWARE.EPS=0.6,0.9", "SEED=0,1", "--devices", "cpu,cpu,cpu")
    assert [(row["run"], row["objective"]) for row in found] == [
        ("eps0.6-seed0", "0.600000"), ("eps0.6-seed1", "0.610000"), ("eps0.9-seed0", "0.900000"),
        ("eps0.9-seed1", "0.910000"),
    ]  # fmt: skip
    table = (tmp_path / "sweeps/s/table.md").read_text()
    assert table.index("| 0.9 | 2 | 0.905 ± 0.007 |") < table.index("| 0.6 | 2 | 0.605 ± 0.007 |")
    assert configs.load(tmp_path / "sweeps/s/best.yml").CAMERA_AWARE.EPS == 0.9
    assert (tmp_path / "sweeps/s/parallel.png").is_file()
    more = sweep(tmp_path, "CAMERA_AWARE.EPS=0.6,0.7,0.9", "SEED=0,1,2", "--devices", "cpu,cpu,cpu")
    assert len(more) == 9
    assert [row["attempts"] for row in more] == ["1"] * 9


def test_rows_keep_their_order_and_a_view_shows_another_evaluation_of_one(tmp_path: Path) -> None:
    file = tmp_path / "rows.yml"
    file.write_text(
        f"_BASE_: {Path('configs/demo.yml').resolve()}\nSWEEP:\n  SEED: [0, 1]\n  ROWS:\n"
        "    before: {OF: strict, READ: training}\n    loose: {CAMERA_AWARE.EPS: 0.6}\n"
        "    strict: {CAMERA_AWARE.EPS: 0.9}\n"
    )
    main([str(file), f"OUTPUT_DIR={tmp_path}", "NAME=s", "--devices", "cpu,cpu"])
    lines = (tmp_path / "sweeps/s/table.md").read_text().splitlines()
    seeds = read_sweep(str(tmp_path / "sweeps/s/best.yml"), ["SEED=4,5"], Wishes())
    assert (seeds.axes, seeds.seeds, seeds.base.CAMERA_AWARE.EPS) == (
        (),
        (4, 5),
        0.9,
    )  # the sweep is not inherited
    rows = [line.split(" | ")[:3] for line in lines if line.startswith("| ")][2:]
    assert rows == [
        ["| before", "2", "0.867 ± 0.007"],  # the epoch before the last: 23/24
        ["| loose", "2", "0.605 ± 0.007"],
        ["| strict", "2", "0.905 ± 0.007"],
    ]


def test_the_best_of_a_template_found_in_the_package_is_a_config_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep(tmp_path, "CAMERA_AWARE.EPS=0.6,0.9", "SOLVER.EPOCHS", "30", "--devices", "cpu,cpu")
    best = configs.load("sweeps/s/best.yml")
    assert (best.CAMERA_AWARE.EPS, best.SOLVER.EPOCHS) == (0.9, 30)
    assert best.MODEL == configs.load("configs/demo.yml").MODEL


def test_failed_runs_are_listed_and_tried_again_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["CAMERA_AWARE.EPS=0.6,0.9", "--devices", "cpu,cpu"]
    monkeypatch.setenv("STAND_IN", "fail 0.9")
    assert [row["state"] for row in sweep(tmp_path, *words)] == ["done", "failed"]
    line = "failed (exit code 2): eps0.9-seed0: error: the stand-in was told to fail"
    assert line in (tmp_path / "sweeps/s/table.md").read_text()
    assert line in capsys.readouterr().out
    monkeypatch.delenv("STAND_IN")
    assert [row["state"] for row in sweep(tmp_path, *words)] == ["done", "failed"]  # not by itself
    assert [row["state"] for row in sweep(tmp_path, *words, "--retry")] == ["done", "done"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["CAMERA_AWARE.EPS=0.6,0.9", "SOLVER.LR=0.5"],
            "the sweep s has SOLVER.LR 0.002, not 0.5: go on with",
        ),
        (["CAMERA_AWARE.KEEP=0.6,0.9"], "the sweep s varies CAMERA_AWARE.EPS: go on with"),
        (["CAMERA_AWARE.EPS=0.6..0.9", "--trials", "2"], "the sweep s has sampler grid, not random"),
    ],
)
def test_another_sweep_does_not_go_on_under_a_used_name(
    tmp_path: Path, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sweep(tmp_path, "CAMERA_AWARE.EPS=0.6,0.9")
    assert sweep(tmp_path, *words, code=2) == before
    assert named in capsys.readouterr().err


def test_a_signal_stops_all_runs_and_the_next_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["CAMERA_AWARE.EPS=0.6,0.9", "--devices", "cpu,cpu"]
    monkeypatch.setenv("STAND_IN", "slow")
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    found = sweep(tmp_path, *words, code=143)
    assert [row["state"] for row in found] == ["waiting"] * 2
    assert "stopped by signal 15; the same command goes on" in capsys.readouterr().out
    assert all("saved" in log.read_text() for log in (tmp_path / "sweeps/s/output").iterdir())
    monkeypatch.delenv("STAND_IN")
    again = sweep(tmp_path, *words)
    assert [(row["state"], row["attempts"]) for row in again] == [("done", "2")] * 2


def test_a_run_behind_the_median_of_its_seed_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["CAMERA_AWARE.EPS=0.9,0.8,0.7,0.6,0.5", "SEED=0,1", "CAMERA_AWARE.SOURCE_EPOCHS=1", "--prune"]
    monkeypatch.setenv("STAND_IN", "slow 0.5")
    found = {row["run"]: row["state"] for row in sweep(tmp_path, *words)}
    assert found.pop("eps0.5-seed0") == "pruned"
    assert found.pop("eps0.5-seed1") == "waiting"  # a point that is behind under one seed needs no other
    assert set(found.values()) == {"done"}
    said = capsys.readouterr().out
    epoch = int(said.partition("pruned: eps0.5-seed0 at epoch ")[2].partition(",")[0])
    assert epoch >= 10  # losses start in the epochs 1 + 3 and 1 + 8: two evaluations after the last


def test_the_median_rule() -> None:
    others = [dict.fromkeys((8, 12, 16), value) for value in (0.2, 0.4, 0.6, 0.8)]
    assert behind([(8, 0.1), (12, 0.1)], others, start=8)
    assert not behind(
        [(8, 0.1), (12, 0.1)], others, start=9
    )  # one evaluation since the last loss has started
    assert not behind([(8, 0.1), (12, 0.5)], others, start=8)  # the median itself
    assert not behind([(8, 0.1), (12, 0.1)], others[:3], start=8)  # too few to compare with
    assert not behind([(8, 0.1), (14, 0.1)], others, start=8)  # at an epoch that no other has seen


@pytest.mark.parametrize(
    ("config", "start"),
    [
        ("configs/demo.yml", 15),  # 4 of the source, and AGNOSTIC_START 11
        ("configs/cluster_contrast/joint.yml", 5),
        ("configs/duke2market.yml", 31),
    ],
)
def test_the_last_loss_starts_where_the_config_says(config: str, start: int) -> None:
    cfg = configs.load(config)
    assert last_start(cfg) == start


def test_tpe_starts_with_the_config_itself_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna")
    words = ["CAMERA_AWARE.EPS=0.1..0.99", "SOLVER.LR=1e-4..1e-2:log", "SEED=0,1", "--sampler", "tpe"]
    few = sweep(tmp_path / "parts", *words, "--trials", "3", "--devices", "cpu,cpu")
    assert [row["state"] for row in few] == ["done"] * 6
    assert (few[0]["CAMERA_AWARE.EPS"], few[0]["SOLVER.LR"]) == ("0.8", "0.002")
    monkeypatch.setenv("STAND_IN", "fail 0.8")
    more = sweep(tmp_path / "parts", *words, "--trials", "16", "--devices", "cpu,cpu")
    assert more[:6] == few
    assert len({row["run"] for row in more}) == 32
    late = [float(row["CAMERA_AWARE.EPS"]) for row in more[-8:]]
    assert sum(late) / 8 > 0.7  # the stand-in's objective is EPS: TPE has found out
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "parts/sweeps/s/optuna.journal"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    told = [trial.value for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]
    means = [(float(a["objective"]) + float(b["objective"])) / 2 for a, b in zip(more[::2], more[1::2])]
    assert told == pytest.approx(means, abs=1e-6)


def test_tpe_without_optuna_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crossreid.engine.extras.installed", lambda name: False)
    sweep(tmp_path, "SOLVER.LR=1e-4..1e-2", "--sampler", "tpe", "--trials", "2", code=2)
    assert 'error: the sampler tpe needs optuna: pip install "crossreid[sweep]"' in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()

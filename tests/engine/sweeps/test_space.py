"""What a sweep varies: axes, points, names, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossreid import configs
from crossreid.configs import ConfigError
from crossreid.configs.methods import schema_of
from crossreid.engine.errors import USER_ERRORS, InputError
from crossreid.engine.sweeps.asked import Wishes, read_sweep, sort_words
from crossreid.engine.sweeps.plan import check_runs
from crossreid.engine.sweeps.slots import share
from crossreid.engine.sweeps.space import Axis, read_axis, split_values, word

DEMO = "configs/demo.yml"
KEYS = schema_of("camera_aware").keys()


def axis(key: str, text: str) -> Axis:
    return read_axis(key, split_values(text, key), KEYS, "a test")


def test_values_and_ranges_are_read_in_the_type_of_their_key() -> None:
    assert axis("CAMERA_AWARE.EPS", "0.6,0.8,1").values == (0.6, 0.8, 1.0)
    assert axis("SOLVER.EPOCHS", "24,30").values == (24, 30)
    assert axis("INPUT.SIZE", "[128,64],[256,128]").values == ([128, 64], [256, 128])
    assert axis("DATALOADER.EPOCH", "source,'target'").values == ("source", "target")
    assert axis("CAMERA_AWARE.EPS", "0.5..0.8:0.1").values == (0.5, 0.6, 0.7, 0.8)
    assert axis("SOLVER.EPOCHS", "24..30:2").values == (24, 26, 28, 30)
    assert axis("SOLVER.LR", "1e-4..1e-2:log") == Axis("SOLVER.LR", (), 1e-4, 1e-2, log=True)
    assert axis("SOLVER.EPOCHS", "4..9") == Axis("SOLVER.EPOCHS", (), 4, 9, whole=True)


def test_draws_stay_in_their_range_and_a_logarithm_is_even_over_decades() -> None:
    random = np.random.default_rng(0)
    drawn = np.array([Axis("SOLVER.LR", (), 1e-4, 1e-2, log=True).draw(random) for _ in range(2000)])
    assert drawn.min() >= 1e-4
    assert drawn.max() <= 1e-2
    assert abs((drawn < 1e-3).mean() - 0.5) < 0.05
    whole = [Axis("SOLVER.EPOCHS", (), 4, 6, whole=True).draw(random) for _ in range(50)]
    assert set(whole) == {4, 5, 6}
    assert all(isinstance(value, int) for value in whole)


@pytest.mark.parametrize(
    ("words", "wishes", "named"),
    [
        (["CAMERA_AWARE.EPSS=0.1,0.2"], {}, "did you mean CAMERA_AWARE.EPS"),
        (["CAMERA_AWARE.EPS=0.1,2"], {}, "CAMERA_AWARE.EPS is 2.0, allowed is 0 to 1"),
        (["CAMERA_AWARE.EPS=0.1,much"], {}, "must be a number, got 'much'"),
        (["CAMERA_AWARE.EPS=0.1,0.10"], {}, "names 0.1 twice"),
        (["CAMERA_AWARE.EPS="], {}, "has no values"),
        (["CAMERA_AWARE.EPS=0.2,0.4", "camera_aware.eps=0.1,0.3"], {}, "given twice"),
        (["CAMERA_AWARE=1,2"], {}, "is a section"),
        (["SOLVER.LR=0.1..0.01"], {"trials": 3}, "is empty"),
        (["SOLVER.LR=0..0.01:log"], {"trials": 3}, "starts above 0"),
        (["SOLVER.LR=0..0.01:0.5"], {}, "leads nowhere"),
        (["SOLVER.EPOCHS=24..30:0.5"], {}, "takes whole numbers"),
        (["DATALOADER.EPOCH=1..3"], {"trials": 3}, "holds no number"),
        (["SOLVER.LR=0.001..0.01"], {}, "is a range, a grid needs values"),
        (["SOLVER.LR=0.001..0.01"], {"sampler": "random"}, "say how many with --trials"),
        (["SOLVER.LR=0.001,0.01"], {"trials": 3}, "a grid runs whole"),
        (["SOLVER.LR=0.001,0.01"], {"sampler": "random", "trials": 3}, "only 2 points to draw, not 3"),
        (["SOLVER.LR=0.001,0.01"], {"sampler": "bayes"}, "allowed are grid, random, tpe"),
        (["SOLVER.LR=0.001,0.01"], {"objective": "mAP"}, "allowed are silhouette"),
        (["DATASETS.ADAPT=false", "SOLVER.LR=0.001,0.01"], {"objective": "density"}, "set TEST.CRITERIA and"),
        (["TEST.CLUSTER.EPS=0.5,0.6"], {}, "is the ruler that silhouette measures with"),
        (["NAME=a,b"], {}, "NAME in the command line cannot be swept"),
        (["RESUME=x.pt", "SOLVER.LR=0.001,0.01"], {}, "RESUME cannot be given"),
        (["SOLVER.LR=0.01"], {}, "nothing to sweep"),
        (["SOLVER.EPOCHS=4,24"], {}, "in the run SOLVER.EPOCHS 4 SEED 0"),
        ([f"SEED={','.join(map(str, range(10_001)))}"], {}, "runs: give fewer values"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    words: list[str], wishes: dict[str, object], named: str
) -> None:
    with pytest.raises(USER_ERRORS, match=named) as error:
        check_runs(read_sweep(DEMO, words, Wishes(**wishes)), 1)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_batch_that_the_processes_of_a_run_do_not_divide_is_refused() -> None:
    sweep = read_sweep(DEMO, ["DATALOADER.BATCH_SIZE=128,126"], Wishes())
    check_runs(sweep, 1)
    with pytest.raises(InputError, match="BATCH_SIZE 126 cannot be divided"):
        check_runs(sweep, 2)


def test_a_grid_is_every_combination_and_its_words_train_what_it_says() -> None:
    words = [
        "CAMERA_AWARE.EPS=0.6,0.8",
        "--SOLVER.LR=0.001,0.01",
        "SEED=3,4",
        "SOLVER.EPOCHS",
        "12",
        "NAME=grid",
    ]
    sweep = read_sweep(DEMO, words, Wishes())
    runs = [run for point in sweep.points() for run in sweep.runs(point)]
    assert [run.name for run in runs][:3] == [
        "eps0.6-lr0.001-seed3",
        "eps0.6-lr0.001-seed4",
        "eps0.6-lr0.01-seed3",
    ]
    assert len({run.name for run in runs}) == 8
    config, *overrides = sweep.words(runs[-1])
    cfg = configs.load(config, overrides)
    assert (cfg.CAMERA_AWARE.EPS, cfg.SOLVER.LR, cfg.SEED, cfg.SOLVER.EPOCHS) == (0.8, 0.01, 4, 12)
    assert (cfg.NAME, cfg.OUTPUT_DIR, cfg.RESUME) == ("eps0.8-lr0.01-seed4", "sweeps/grid", "auto")


def test_values_that_make_one_file_name_have_two_names() -> None:
    sweep = read_sweep(DEMO, ["DATASETS.SOURCES=[a:b],[a_b]"], Wishes())
    names = [run.name for point in sweep.points() for run in sweep.runs(point)]
    assert len(set(names)) == 2
    assert all(name == configs.load(DEMO, ["NAME", name]).NAME for name in names)


def test_random_points_are_the_same_each_time_and_more_of_them_begin_alike() -> None:
    words = ["SOLVER.LR=1e-4..1e-2:log", "CAMERA_AWARE.EPS=0.7,0.8"]
    few, more = (read_sweep(DEMO, words, Wishes(trials=n)).points() for n in (4, 7))
    assert more[:4] == few
    assert len({point.values for point in more}) == 7
    other = read_sweep(DEMO, words, Wishes(trials=4, sampler_seed=1)).points()
    assert other != few


def test_a_yaml_says_what_varies_and_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(
        f"_BASE_: {Path(DEMO).resolve()}\nSOLVER: {{EPOCHS: 12}}\n"
        "SWEEP: {SOLVER.LR: 1e-4..1e-2:log, CAMERA_AWARE.EPS: [0.7, 0.8], SAMPLER: random, TRIALS: 5, SEED: [0, 1]}\n"
    )
    sweep = read_sweep(str(file), ["camera_aware.EPS=0.9,0.95"], Wishes(trials=2))
    assert [a.key for a in sweep.axes] == ["SOLVER.LR", "CAMERA_AWARE.EPS"]
    assert sweep.axes[1].values == (0.9, 0.95)
    assert (sweep.sampler, sweep.trials, sweep.seeds, sweep.objective) == ("random", 2, (0, 1), "silhouette")
    assert configs.load(file).SOLVER.EPOCHS == 12  # a training of this file is the config without the sweep


SWEEPS = sorted(path for path in Path("benchmarks/sweeps").glob("*.yml") if "SWEEP:" in path.read_text())


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_the_sweeps_of_the_result_tables_can_start(file: Path) -> None:
    sweep = read_sweep(str(file), [], Wishes())
    check_runs(sweep, 1)
    assert sweep.folder.name == file.stem
    if file.stem == "central_feature_2":
        words = sweep.runs(sweep.points()[0])[2].overrides
        assert configs.load(file, list(words)).MODEL.WEIGHTS.endswith("first-seed2/last.pt")


def test_rows_are_several_keys_at_once_and_views_show_another_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "rows.yml"
    file.write_text(
        f"_BASE_: {Path(DEMO).resolve()}\nSWEEP:\n  SEED: [0, 1]\n  ROWS:\n"
        "    before: {OF: plain, READ: direct transfer}\n    plain: {CAMERA_AWARE.MIXUP: false}\n"
        "    weights: {MODEL.WEIGHTS: 'first/seed{SEED}/last.pt', SOLVER.EPOCHS: 16}\n    as it is:\n"
    )
    sweep = read_sweep(str(file), [], Wishes())
    runs = [run for point in sweep.points() for run in sweep.runs(point)]
    assert len(runs) == 6
    cfg = configs.load(file, list(runs[3].overrides))
    assert (cfg.MODEL.WEIGHTS, cfg.SOLVER.EPOCHS, cfg.SEED) == ("first/seed1/last.pt", 16, 1)
    assert sweep.titles == ("before", "plain", "weights", "as it is")
    file.write_text(file.read_text().replace("OF: plain", "OF: plan"))
    with pytest.raises(InputError, match="before is OF 'plan', which is no row: plain, weights, as it is"):
        read_sweep(str(file), [], Wishes())


@pytest.mark.parametrize("value", ["off", "1e-4", "a b", "", "[x]", 0.1, 1e-05, True, [1, 2], ["a:b"], "x,y"])
def test_a_value_survives_the_command_line(value: object) -> None:
    key = {bool: "SOLVER.NESTEROV", float: "SOLVER.LR", str: "DATASETS.ROOT"}.get(type(value))
    key = key or ("DATASETS.SOURCES" if isinstance(value[0], str) else "TEST.RANKS")  # type: ignore[index]
    cfg = configs.load(DEMO, [key, word(value)])
    section, name = key.split(".")
    assert cfg[section][name] == value


def test_single_values_are_overrides() -> None:
    assert sort_words(["A.B=1", "C", "2", "--D=1,2", "E=[1,2]"]) == (
        {"D": [1, 2]},
        ["A.B=1", "C", "2", "E=[1,2]"],
    )
    with pytest.raises(ConfigError, match="is not YAML"):
        sort_words(["A=[1,2"])


def test_devices_are_shared_out_among_runs() -> None:
    assert share("cpu,cpu", 1) == ["cpu", "cpu"]
    assert share("cpu:4", 2) == ["cpu:2", "cpu:2"]
    assert share("cpu:3", 2) == ["cpu:2"]
    for devices, per_run, named in (
        ("cpu,cpu", 3, "would need 3 devices, --devices names 2"),
        ("cpu", 0, "--per-run is 0"),
        ("cpu,0", 1, "is not understood"),
        ("gpu", 1, "is not understood"),
        ("99", 1, "no GPU 99"),
    ):
        with pytest.raises(InputError, match=named):
            share(devices, per_run)

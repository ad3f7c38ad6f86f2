"""The configuration refuses what it does not understand, in one line that helps."""

import re
from pathlib import Path

import pytest
import yaml

from crossreid.configs import ConfigError, load, method_names, restore
from crossreid.configs.defaults import _C
from crossreid.configs.flat import TABLE
from crossreid.configs.loading import values_of
from crossreid.configs.methods import method_config, schema_of

TEMPLATES = sorted(Path("configs").glob("**/*.yml"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: str(p.relative_to("configs")))
def test_every_template_loads(path: Path) -> None:
    cfg = load(path)
    assert cfg.is_frozen()
    assert (path.stem == cfg.NAME) == (path.parent.name == "configs")


def test_templates_hold_the_published_recipe() -> None:
    cfg = load("configs/duke2market.yml")
    assert (cfg.DATASETS.SOURCES, cfg.DATASETS.TARGET) == (["duke"], "market")
    assert (cfg.DATALOADER.BATCH_SIZE, cfg.SOLVER.EPOCHS, cfg.SOLVER.STEPS) == (256, 70, [60])
    method = cfg.CAMERA_AWARE
    assert (method.SCALE, method.EPS, method.MIXUP_ALPHA, method.KEEP) == (10, 0.8, 0.6, 0.6)
    assert (method.INTRA_START, method.INTER_START, method.INTER_WEIGHT) == (11, 31, 0.5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["SOLVR.LR", "1"], ["unknown key SOLVR", "SOLVER.LR"]),
        (["SOLVER.NESTROV", "true"], ["unknown key SOLVER.NESTROV", "did you mean SOLVER.NESTEROV"]),
        (["SOLVER.LR", "fast"], ["SOLVER.LR", "must be a number", "'fast'"]),
        (["SOLVER.EPOCHS", "1.5"], ["SOLVER.EPOCHS", "whole number"]),
        (["SOLVER.NESTEROV", "1"], ["SOLVER.NESTEROV", "true or false"]),
        (["INPUT.CROP", "'no'"], ["INPUT.CROP", "true or false"]),
        (["SOLVER.LR", "-1"], ["SOLVER.LR", "0 to 1000"]),
        (["SOLVER.LR", ".nan"], ["SOLVER.LR", "0 to 1000"]),
        (["SOLVER", "1"], ["SOLVER", "section"]),
        (["SOLVER.LR"], ["KEY VALUE", "SOLVER.LR"]),
        (["SOLVER.OPTIMIZER", "sdg"], ["SOLVER.OPTIMIZER", "did you mean sgd"]),
        (["INPUT.SIZE", "[256]"], ["INPUT.SIZE", "2 values"]),
        (["SOLVER.STEPS", "[40, 20]"], ["SOLVER.STEPS", "rise"]),
        (["DATALOADER.BATCH_SIZE", "33"], ["DATALOADER.BATCH_SIZE", "odd"]),
        (["DATASETS.SOURCES", "[duke, market]"], ["DATASETS.SOURCES", "one source"]),
        (["CAMERA_AWARE.SOURCE_EPOCHS", "70"], ["CAMERA_AWARE.SOURCE_EPOCHS", "DATASETS.ADAPT false"]),
        (["INPUT.ERASE_AREA", "[0.3, 0.2]"], ["INPUT.ERASE_AREA", "smallest"]),
        (["NAME", "a/b"], ["NAME", "folder"]),
    ],
)
def test_bad_values_are_named(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_overrides_win_over_yaml_and_numbers_convert(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("SOLVER:\n  LR: 1e-4\n  EPOCHS: 5\nDATASETS:\n  SOURCES: duke\n")
    cfg = load(file, ["SOLVER.EPOCHS", "7", "TEST.RANKS", "[1, 20]"])
    assert cfg.SOLVER.LR == 1e-4  # YAML reads 1e-4 as text
    assert cfg.SOLVER.EPOCHS == 7
    assert cfg.TEST.RANKS == [1, 20]
    assert cfg.DATASETS.SOURCES == ["duke"]
    assert _C.SOLVER.NEW_LR.default == cfg.SOLVER.NEW_LR
    assert load(None).SOLVER.EPOCHS == 70  # the defaults stay as they are


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", ["is not YAML"]),
        ("- 1\n- 2", ["keys and values", "list"]),
        ("SOLVER: 3", ["SOLVER", "section"]),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "bad.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_home_folder_in_output_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load(None, ["OUTPUT_DIR", "~/runs"]).OUTPUT_DIR == "/home/ada/runs"


def test_home_and_variables_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("SCRATCH", "/fast")
    given = ["DATASETS.ROOT", "$SCRATCH/data", "DATASETS.SOURCES", "[market, 'csv:~/a.csv']"]
    given += ["DATASETS.TARGET", "cameras:${SCRATCH}/mine", "MODEL.WEIGHTS", "~/$SCRATCH.pt", "METHOD", "m3l"]
    cfg = load(None, [*given, "DATASETS.ADAPT", "false", "DATALOADER.INSTANCES", "4"])
    assert (cfg.DATASETS.ROOT, cfg.DATASETS.TARGET) == ("/fast/data", "cameras:/fast/mine")
    assert cfg.DATASETS.SOURCES == ["market", "csv:/home/ada/a.csv"]
    assert cfg.MODEL.WEIGHTS == "/home/ada//fast.pt"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("DATASETS.ROOT", "/x/$NOWHERE_SET/data", ["DATASETS.ROOT", "no variable NOWHERE_SET"]),
        ("DATASETS.TARGET", "csv:${NOWHERE_SET}/a.csv", ["DATASETS.TARGET", "NOWHERE_SET"]),
        ("OUTPUT_DIR", "~nobody-of-this-name/runs", ["OUTPUT_DIR", "no home folder of ~nobody-of-this-name"]),
    ],
)
def test_unknown_variables_and_users_are_refused(key: str, value: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, [key, value])
    assert all(word in str(caught.value) for word in words)


def test_missing_file_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"no config file configs/duke2markt\.yml; did you mean configs/duke2market\.yml"
    ):
        load("configs/duke2markt.yml")


SEED_YAML = """
prefix: duke2market-mix
fp16: true
mix: true
alpha: 0.6
neighbor_mode: 1
neighbor_eps: 0.7
scale: 10
batch_size: 256
joint_training: true
source_dataset: duke
target_dataset: market
drop_last_stride: true
new_params_lr: 0.05
ft_lr: 0.02
optimizer: sgd
num_epoch: 70
lr_step: [50, 60]
random_flip: true
random_crop: true
random_erase: false
color_jitter: false
padding: 8
eval_interval: 10
wd: 0.0004
image_size: [224, 112]
log_period: 25
"""


def test_the_flat_yaml_of_the_seed_works_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "seed.yml"
    file.write_text(SEED_YAML)
    assert set(yaml.safe_load(SEED_YAML)) == set(TABLE)
    cfg = load(file)
    expected = {
        "NAME": "duke2market-mix", "SOLVER.AMP": "auto", "CAMERA_AWARE.MIXUP": True, "CAMERA_AWARE.MIXUP_ALPHA": 0.6,
        "CAMERA_AWARE.NEIGHBOR_MODE": "camera_aware", "CAMERA_AWARE.EPS": 0.7, "CAMERA_AWARE.SCALE": 10.0,
        "DATALOADER.BATCH_SIZE": 256, "DATASETS.ADAPT": True, "DATASETS.SOURCES": ["duke"], "DATASETS.TARGET": "market",
        "MODEL.LAST_STRIDE": 1, "SOLVER.NEW_LR": 0.05, "SOLVER.LR": 0.02, "SOLVER.OPTIMIZER": "sgd",
        "SOLVER.EPOCHS": 70, "SOLVER.STEPS": [50, 60], "INPUT.FLIP": 0.5, "INPUT.CROP": True, "INPUT.ERASE": 0.0,
        "INPUT.JITTER": [0.0, 0.0, 0.0, 0.0], "INPUT.PAD": 8, "TEST.PERIOD": 10, "SOLVER.WEIGHT_DECAY": 0.0004,
        "INPUT.SIZE": [224, 112], "LOG.PERIOD": 25,
    }  # fmt: skip
    for key, value in expected.items():
        section = cfg
        for part in key.split("."):
            section = section[part]
        assert section == value, key


def test_the_flat_colour_jitter_is_the_seed_s(tmp_path: Path) -> None:
    """No hue, and before the padding."""
    file = tmp_path / "seed.yml"
    file.write_text("color_jitter: true\n")
    cfg = load(file)
    assert (cfg.INPUT.JITTER, cfg.INPUT.JITTER_FIRST) == ([0.1, 0.1, 0.1, 0.0], True)


def test_flat_keys_left_out_take_the_seed_defaults(tmp_path: Path) -> None:
    file = tmp_path / "seed.yml"
    file.write_text("joint_training: true\n")
    cfg = load(file)
    assert (cfg.CAMERA_AWARE.SCALE, cfg.SOLVER.EPOCHS, cfg.MODEL.LAST_STRIDE, cfg.TEST.PERIOD) == (
        20,
        60,
        2,
        0,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [("neighbor_esp: 0.8", ["neighbor_esp", "neighbor_eps"]), ("fp16: 'no'", ["fp16", "true or false"]),
     ("neighbor_mode: 3", ["neighbor_mode", "0", "1"]), ("neighbor_mode: true", ["neighbor_mode", "True"])],
)  # fmt: skip
def test_flat_mistakes_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "seed.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    for word in words:
        assert word in str(caught.value)


def declarations() -> dict[str, str]:
    """The declaration of each key with its comment, as written."""
    found = {}
    for part in re.split(r"^    keys\.", Path("configs/cluster_keys.py").read_text(), flags=re.MULTILINE)[1:]:
        name, _, declaration = part.partition(" = ")
        found |= {f"{method}.CLUSTER.{name}": declaration for method in ("CAMERA_PROXY", "CLUSTER_CONTRAST")}
    for module in ("defaults", *method_names()):
        section = "" if module == "defaults" else method_config(module).SECTION + "."
        text = Path(f"configs/{module}.py").read_text().partition("\n\ndef ")[0]
        for part in re.split(r"^(?:_C|KEYS)\.", text, flags=re.MULTILINE)[1:]:
            name, _, declaration = part.partition(" = ")
            found[section + name] = declaration
    return found


def test_every_key_has_a_comment_or_speaking_choices_and_is_read_by_code() -> None:
    code = "\n".join(path.read_text() for path in Path("engine").glob("**/*.py"))
    told = declarations()
    for key in values_of(load(None)):
        assert "#" in told[key] or told[key].startswith("choice("), f"{key} has no comment"
        assert f".{key.rpartition('.')[2]}" in code, f"{key} is read nowhere"


def test_a_default_out_of_its_own_bounds_would_be_found() -> None:
    for name, key in schema_of("camera_aware").keys().items():
        key.check(name, key.default)


METHOD = """
from crossreid.configs.schema import Section, number
SECTION = "MINE"
KEYS = Section()
KEYS.WEIGHT = number(0.5, 0, 1)  # of the loss
def build(cfg, data): ...
def build_extractor(cfg): ...
"""


def test_a_method_from_outside_the_tree_brings_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "inner.py").write_text(METHOD)
    cfg = load(None, ["METHOD", "pack.inner", "MINE.WEIGHT", "1"])
    assert cfg.MINE.WEIGHT == 1.0
    assert restore(cfg.dump(), ["MINE.WEIGHT", "0.25"])[0].MINE.WEIGHT == 0.25
    with pytest.raises(ConfigError, match=r"MINE\.WEIGHT is 2.0, allowed is 0 to 1"):
        load(None, ["METHOD", "pack.inner", "MINE.WEIGHT", "2"])
    with pytest.raises(ConfigError, match="unknown key MINE"):
        load(None, ["MINE.WEIGHT", "1"])
    with pytest.raises(
        ConfigError, match="finds no module packet; add the folder that holds it to PYTHONPATH"
    ):
        load(None, ["METHOD", "packet.inner"])
    (tmp_path / "pack" / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.py lacks build and build_extractor"):
        load(None, ["METHOD", "pack.empty"])

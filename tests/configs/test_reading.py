"""What people and other programs write into YAML files and command lines is understood, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossreid.configs import ConfigError, load
from crossreid.configs.overrides import pairs, set_apart


def refused(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize(
    ("text", "path"), [("a #b", "a #b"), ("a: b", "a: b"), ("5", "5"), ("'a #b'", "a #b"), ("[x]", "[x]")]
)
def test_a_path_of_the_command_line_is_no_yaml(text: str, path: str) -> None:
    assert pairs(["OUTPUT_DIR", text, f"output_dir={text}"]) == [("OUTPUT_DIR", path), ("output_dir", path)]
    assert pairs(["DISENTANGLE.MASK_DIR", text]) == [("DISENTANGLE.MASK_DIR", path)]


@pytest.mark.parametrize(
    "given",
    [["SOLVER.LR", "0.5"], ["SOLVER.LR=0.5"], ["--SOLVER.LR=0.5"], ["solver.lr", "0.5"], ["Solver.lr=0.5"]],
)
def test_forms_of_an_override(given: list[str]) -> None:
    cfg = load(None, [*given, "SOLVER.EPOCHS", "80"])
    assert (cfg.SOLVER.LR, cfg.SOLVER.EPOCHS) == (0.5, 80)


def test_an_assignment_with_dashes_is_set_apart_from_options() -> None:
    plain, assigned = set_apart(
        ["--devices", "cpu", "a.yml", "--SOLVER.LR=0.5", "--config=b.yml", "NAME", "x"]
    )
    assert plain == ["--devices", "cpu", "a.yml", "--config=b.yml", "NAME", "x"]
    assert assigned == ["--SOLVER.LR=0.5"]


def test_small_letters_and_dotted_keys_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("solver:\n  lr: 0.5\nDATASETS.TARGET: duke\nsolver.epochs: 80\n")
    cfg = load(file)
    assert (cfg.SOLVER.LR, cfg.DATASETS.TARGET, cfg.SOLVER.EPOCHS) == (0.5, "duke", 80)
    file.write_text("slover:\n  lr: 0.5\n")
    assert "slover" in refused(file)


def test_tuples_of_yacs() -> None:
    cfg = load(
        None, ["SOLVER.STEPS", "(40, 60)", "DATASETS.SOURCES", "('duke',)", "INPUT.SIZE", "(256, 128)"]
    )
    assert (cfg.SOLVER.STEPS, cfg.DATASETS.SOURCES, cfg.INPUT.SIZE) == ([40, 60], ["duke"], [256, 128])
    assert "INPUT.SIZE" in refused(None, "INPUT.SIZE", "(256, [1])")


def test_off_is_a_choice_and_other_switches_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("DATASETS:\n  CACHE: off\n")
    assert load(file).DATASETS.CACHE == "off"
    assert load(None, ["DATASETS.CACHE", "off"]).DATASETS.CACHE == "off"
    assert "DATASETS.CACHE" in refused(None, "DATASETS.CACHE", "on")
    for value in ("7", "2024-01-01", "yes", "1.5"):
        message = refused(None, "NAME", value)
        assert "NAME" in message
        assert "quotes" in message
    assert load(None, ["NAME", '"7"']).NAME == "7"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SOLVER:\n  LR: 0.1\n  LR: 0.3\n", ["'LR'", "lines 2 and 3", "a.yml"]),
        (
            "SOLVER:\n  LR: 0.1\nMODEL:\n  BACKBONE: tiny\nSOLVER:\n  EPOCHS: 3\n",
            ["'SOLVER'", "lines 1 and 5"],
        ),
        ("NAME: " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
        ("SEED: " + "9" * 5000, ["SEED", "whole number"]),
        ("SOLVER: {LR: 0x" + "f" * 600 + "}", ["SOLVER.LR"]),
        ("NAME: !!python/object/apply:os.system ['true']", ["not YAML"]),
        ("? [1, 2]\n: 3\n", ["not YAML"]),
        ("NAME: !!timestamp 'abc'\n", ["not YAML"]),
        ("SOLVER: {LR: 0.1}\nsolver: {lr: 0.3}\n", ["'solver.lr'", "twice", "'SOLVER.LR'"]),
        ("SOLVER: {LR: 0.1, lr: 0.3}\n", ["'SOLVER.lr'", "twice"]),
        ("SOLVER: {LR: 0.1}\nSOLVER.LR: 0.3\n", ["'SOLVER.LR'", "twice"]),
        ("DATASETS: {SOURCES: ['']}\n", ["DATASETS.SOURCES", "empty name"]),
        ("OUTPUT_DIR: '  '\n", ["OUTPUT_DIR is blank"]),
        ("1: 2\n", ["unknown key 1"]),
        ("INPUT: {SIZE: &a [*a, *a]}\n", ["INPUT.SIZE"]),
        ("SOLVER: &a\n  SOLVER: *a\n", ["SOLVER.SOLVER"]),
        ('NAME: "a\\0b"\n', ["NAME", "'\\x00'"]),
        ('NAME: "\\ud800"\n', ["NAME", "'\\ud800'"]),
        ('NAME: " "\n', ["NAME"]),
        ("NAME: " + "n" * 300 + "\n", ["NAME", "300 bytes"]),
        ('MODEL: {WEIGHTS: "a\\0b"}\n', ["MODEL.WEIGHTS"]),
        ("SOLVER: {LR: {a: 1}}\n", ["SOLVER.LR.a", "holds no keys"]),
        ("SOLVER: {LR: .inf}\n", ["SOLVER.LR"]),
        ("a: 1\n---\nb: 2\n", ["not YAML"]),
    ],
)
def test_hostile_files(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    message = refused(file)
    for word in words:
        assert word in message


def test_anchors_that_explode_end_in_a_short_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    rows = ((i, ", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 12))
    levels = "".join(f"  - &a{i} [{row}]\n" for i, row in rows)
    file.write_text("INPUT:\n  SIZE:\n  - &a0 [x,x,x,x,x,x,x,x,x,x]\n" + levels)
    assert "INPUT.SIZE" in refused(file)


def test_files_inherit(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "root.yml").write_text(
        "SOLVER:\n  LR: 0.2\n  EPOCHS: 3\n  STEPS: [2]\nINPUT:\n  SIZE: [64, 32]\n"
    )
    (tmp_path / "sub" / "middle.yml").write_text("_BASE_: ../root.yml\nSOLVER:\n  LR: 0.3\n  STEPS: [1, 2]\n")
    (tmp_path / "leaf.yml").write_text("_BASE_: sub/middle.yml\nSOLVER:\n  EPOCHS: 5\n")
    cfg = load(tmp_path / "leaf.yml", ["SOLVER.NEW_LR", "0.9"])
    assert (cfg.SOLVER.LR, cfg.SOLVER.EPOCHS, cfg.SOLVER.STEPS) == (0.3, 5, [1, 2])
    assert ([64, 32], 0.9, f"{tmp_path.name}-leaf") == (cfg.INPUT.SIZE, cfg.SOLVER.NEW_LR, cfg.NAME)
    (tmp_path / "root.yml").write_text("_BASE_: leaf.yml\n")
    assert "leaf.yml -> middle.yml -> root.yml -> leaf.yml" in refused(tmp_path / "leaf.yml")
    (tmp_path / "leaf.yml").write_text("_BASE_: nothing.yml\n")
    assert "no file" in refused(tmp_path / "leaf.yml")
    (tmp_path / "leaf.yml").write_text("_BASE_: [a]\n")
    assert "_BASE_" in refused(tmp_path / "leaf.yml")


def test_a_template_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("configs/ecn/demo.yml").NAME == "ecn-demo"
    assert "no config file configs/nothing.yml" in refused(Path("configs/nothing.yml"))

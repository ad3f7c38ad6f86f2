"""One name in a wheel and in the checkout: another package named ``datasets`` and ours do not meet."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages with our wheel and a stand-in for Hugging Face's ``datasets``."""
    work = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps"]
    copy = work / "copy"
    subprocess.run(
        ["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(copy)], check=True, timeout=120
    )
    subprocess.run([*pip, "--no-build-isolation", "-w", str(work), str(copy)], check=True, timeout=300)
    folder = work / "site"
    with zipfile.ZipFile(next(work.glob("crossreid-*.whl"))) as wheel:
        wheel.extractall(folder)
    (folder / "datasets").mkdir()
    (folder / "datasets" / "__init__.py").write_text("def load_dataset(name): return f'theirs: {name}'\n")
    return folder


def python(site: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_one_package(site: Path) -> None:
    ours = {path.name for path in site.iterdir() if path.name != "datasets"}
    assert {name for name in ours if not name.endswith(".dist-info")} == {"crossreid"}
    assert (site / "crossreid" / "configs" / "ecn" / "demo.yml").is_file()


def test_both_packages_named_datasets_work(site: Path, tmp_path: Path) -> None:
    code = """
import datasets, crossreid, crossreid.datasets, crossreid.engine.evaluate
from crossreid import configs
print(datasets.load_dataset("x"))
print(crossreid.datasets.load.__module__, configs.load(None).METHOD, crossreid.__file__)
"""
    told = python(site, tmp_path, "-c", code)
    assert "theirs: x" in told
    assert "crossreid.datasets.readers camera_aware" in told
    assert str(site) in told


def test_commands_of_the_wheel_and_of_the_checkout(site: Path, tmp_path: Path) -> None:
    for place, cwd in ((site, tmp_path), (ROOT, tmp_path)):
        told = python(place, cwd, "-m", "crossreid", "--help")
        assert all(f"  {command} " in told for command in ("train", "eval", "datasets", "domains"))
        assert "usage: crossreid domains" in python(place, cwd, "-m", "crossreid", "domains", "--help")


def test_an_unknown_command_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crossreid", "trian"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean train?" in done.stderr


def test_waiting_threads_leave_their_core(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossreid.engine.commands import main

    for before, after, spin in (("", "PASSIVE", "3000"), ("ACTIVE", "ACTIVE", None)):
        monkeypatch.setenv("GOMP_SPINCOUNT", "1")
        monkeypatch.delenv("GOMP_SPINCOUNT")
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
        if not before:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        with pytest.raises(SystemExit):
            main(["train", "--help"])
        assert os.environ["OMP_WAIT_POLICY"] == after
        assert os.environ.get("GOMP_SPINCOUNT") == spin

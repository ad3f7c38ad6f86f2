"""Installs one package, ``crossreid``: ``pip install .`` (``".[dev]"`` adds the developers' tools)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FOLDERS = (
    "configs",
    "datasets",
    "engine",
    "losses",
    "modeling",
)  # of the checkout; inside crossreid in a wheel


EXTRAS = {  # what only some users need; a command that lacks one says so in a line
    "export": ["onnx>=1.16", "onnxscript>=0.2", "onnxruntime>=1.18"],
    "report": ["jinja2>=3.1", "matplotlib>=3.8"],
    "serve": ["fastapi>=0.110", "uvicorn>=0.29", "python-multipart>=0.0.9"],
    "timm": ["timm>=1.0"],
    "faiss": ["faiss-cpu>=1.8"],
    "sweep": ["optuna>=4"],
    "trackers": ["wandb>=0.16", "mlflow-skinny>=2.10"],
}


def requirements(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]


setup(
    name="crossreid",
    version="0.2.0",
    description="Cross-domain person re-identification on PyTorch, pytorch-ignite and yacs",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=["crossreid"]
    + [
        f"crossreid.{name}"
        for folder in FOLDERS
        for name in [folder, *[f"{folder}.{n}" for n in find_packages(folder)]]
    ],
    package_dir={"crossreid": "crossreid", **{f"crossreid.{folder}": folder for folder in FOLDERS}},
    package_data={"crossreid.configs": ["*.yml", "*/*.yml"], "crossreid.engine.deploy": ["*.html"]},
    entry_points={"console_scripts": ["crossreid = crossreid.engine.commands:main"]},
    install_requires=requirements("requirements.txt"),
    extras_require={"dev": requirements("requirements-dev.txt"), **EXTRAS},
)

"""Installs the framework in place: ``pip install -e .`` (``-e ".[dev]"`` adds the developers' tools)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
REQUIREMENTS = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
DEV = ["pytest>=8", "ruff>=0.9", "mypy>=1.14", "import-linter>=2.1", "pre-commit>=4", "scipy>=1.11"]

setup(
    name="crossreid",
    version="0.1.0",
    description="Cross-domain person re-identification on PyTorch, pytorch-ignite and yacs",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["configs*", "datasets*", "engine*", "losses*", "modeling*"]),
    package_data={"configs": ["*.yml", "*/*.yml"]},
    install_requires=REQUIREMENTS,
    extras_require={"dev": DEV, "export": ["onnx>=1.16"]},
)

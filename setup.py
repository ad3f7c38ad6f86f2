"""Installs the framework in place: ``pip install -e .`` (``-e ".[dev]"`` adds the developers' tools)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]


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
    install_requires=requirements("requirements.txt"),
    extras_require={"dev": requirements("requirements-dev.txt"), "export": ["onnx>=1.16"]},
)

"""A checkpoint for other programs: ONNX and torch.export with everything inside, safetensors under trackers' names."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from crossreid.datasets.files import draft
from crossreid.engine.deploy.embedder import Embedder, EmbeddingNetwork
from crossreid.engine.deploy.snippets import write_snippets
from crossreid.engine.errors import InputError
from crossreid.engine.extras import need

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
LARGEST_DIFFERENCE = 1e-4
OPSET = 18


class ExportNetwork(nn.Module):
    """Photos as a camera gives them to unit vectors.

    Args:
        network: of an ``Embedder``.
        size: height and width that it wants.
        colour: order of the channels, ``rgb`` or ``bgr``.
        layout: ``nchw`` or ``nhwc``.
    """

    def __init__(self, network: EmbeddingNetwork, size: tuple[int, int], colour: str, layout: str) -> None:
        super().__init__()
        self.network, self.size, self.bgr, self.nhwc = network, size, colour == "bgr", layout == "nhwc"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, h, w] (nhwc: [B, h, w, 3]) in 0..255 to unit vectors [B, D]."""
        pixels = images.float()
        if self.nhwc:
            pixels = pixels.permute(0, 3, 1, 2)
        if self.bgr:
            pixels = pixels.flip(1)
        pixels = F.interpolate(pixels, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.network(
            pixels
        )  # not rounded, as Pillow does: a rounding error of 1e-6 would move whole levels


def export(
    embedder: Embedder,
    form: str,
    out: str | Path,
    *,
    colour: str = "rgb",
    layout: str = "nchw",
    dtype: str = "uint8",
) -> dict[str, Any]:
    """Write a network, check it against torch, and write its metadata and, for ONNX, snippets beside it.

    Args:
        form: ``onnx``, ``pt2`` or ``safetensors``.
        out: its file; ``NAME.json`` and the snippets are written beside it.
        colour, layout: of the images that the graph takes; see ``ExportNetwork``.
        dtype: of these images: ``uint8``, or ``float32`` in 0..255 (DeepStream feeds no other).

    Returns:
        The metadata, with ``difference``: the largest one to torch over batches and sizes.

    Raises:
        InputError: a missing package, an unknown option, a difference above 1e-4, a file that cannot be written.
    """
    out = Path(out)
    for name, value, allowed in (
        ("--format", form, tuple(FORMATS)), ("--colour", colour, ("rgb", "bgr")),
        ("--layout", layout, ("nchw", "nhwc")), ("--input", dtype, ("uint8", "float32")),
    ):  # fmt: skip
        if value not in allowed:
            raise InputError(f"{name} {value!r}: choose {' or '.join(allowed)}")
    if out.suffix != FORMATS[form]:
        raise InputError(f"--out {out}: a file of --format {form} ends in {FORMATS[form]}")
    if form == "onnx":
        need("--format onnx", "export")
    meta = metadata(embedder, form, colour, layout, dtype)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft(out) as partial:
            if form == "safetensors":
                from crossreid.engine.deploy.tracker_weights import write_weights

                meta |= write_weights(embedder, partial)
            else:
                network = ExportNetwork(embedder.network, embedder.size, colour, layout).to("cpu").eval()
                meta["difference"] = _write_graph(network, form, partial, meta)
                embedder.network.to(embedder.device)
        out.with_suffix(".json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        if form == "onnx":
            write_snippets(out, meta)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from None
    return meta


def metadata(embedder: Embedder, form: str, colour: str, layout: str, dtype: str) -> dict[str, Any]:
    """What a program must know of the exported file."""
    options = embedder.cfg.INPUT
    inside: dict[str, Any] = {
        "input": {
            "name": "images", "dtype": dtype, "layout": layout, "colour": colour, "range": [0, 255],
            "size": "any; resized inside",
        },
        "output": {"name": "vectors", "dtype": "float32", "unit_length": True},
    }  # fmt: skip
    if form == "safetensors":
        inside = {}
    return {
        "format": form,
        "digest": embedder.digest,
        "dim": embedder.dim,
        "size": list(embedder.size),
        "mean": list(options.MEAN),
        "std": list(options.STD),
        "flip": embedder.network.flip,
        "method": embedder.cfg.METHOD,
        "backbone": embedder.cfg.MODEL.BACKBONE,
        "similarity": "cosine: the product of two vectors",
        **inside,
        "calibration": embedder.calibration,
    }


def _example(meta: dict[str, Any], batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    coarse = torch.randint(0, 256, (batch, 3, 6, 4), generator=generator).float()
    images = F.interpolate(coarse, (height, width), mode="bilinear").round()
    images = images.permute(0, 2, 3, 1).contiguous() if meta["input"]["layout"] == "nhwc" else images
    return images.to(torch.uint8) if meta["input"]["dtype"] == "uint8" else images


def _write_graph(network: ExportNetwork, form: str, path: Path, meta: dict[str, Any]) -> float:
    limits = (("batch", 1), ("height", 8), ("width", 8))
    batch, height, width = (torch.export.Dim(name, min=low, max=4096) for name, low in limits)
    axes = (0, 1, 2) if meta["input"]["layout"] == "nhwc" else (0, 2, 3)
    shapes = {"images": dict(zip(axes, (batch, height, width)))}
    example = _example(meta, 2, 150, 70)
    quiet = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch._dynamo", "torch.fx")]
    levels = [log.level for log in quiet]
    try:
        for log in quiet:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (example,), dynamic_shapes=shapes)
            if form == "pt2":
                torch.export.save(program, path)
            else:
                torch.onnx.export(
                    program,
                    (),
                    path,
                    input_names=["images"],
                    output_names=["vectors"],
                    opset_version=OPSET,
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
    finally:
        for log, level in zip(quiet, levels):
            log.setLevel(level)
    return _difference(network, form, path, meta)


@torch.no_grad()
def _difference(network: ExportNetwork, form: str, path: Path, meta: dict[str, Any]) -> float:
    """The largest difference of the written file's vectors to torch's, over several batches and photo sizes."""
    height, width = meta["size"]
    run: Any
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(images: torch.Tensor) -> np.ndarray:
            return session.run(["vectors"], {"images": images.numpy()})[0]
    else:
        module = torch.export.load(path).module()

        def run(images: torch.Tensor) -> np.ndarray:
            return module(images).numpy()

    largest = 0.0
    for batch, h, w in ((1, height, width), (3, height, width), (2, 211, 97), (1, 40, 33)):
        images = _example(meta, batch, h, w)
        largest = max(largest, float(np.abs(run(images) - network(images).numpy()).max()))
    if not largest <= LARGEST_DIFFERENCE:
        raise InputError(
            f"the {form} file's vectors differ from torch's by {largest:.2g}, more than {LARGEST_DIFFERENCE:g}: "
            "it was not kept"
        )
    return largest

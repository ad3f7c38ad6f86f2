"""A model for other programs: crossreid export CHECKPOINT --format onnx|pt2|safetensors --out FILE [KEY VALUE ...].

onnx and pt2 take photos of any size and batch and give unit vectors; they are checked against torch. safetensors holds
weights under the names of torchreid and boxmot. FILE's metadata (size, colours, threshold, digest) is written beside
it, for onnx also a Python and a C++ program and a DeepStream configuration.
"""

from __future__ import annotations

from pathlib import Path

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import guarded
from crossreid.engine.extras import need


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("export", __doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("overrides", nargs="*", help="KEY VALUE pairs")
    parser.add_argument("--format", required=True, help="onnx, pt2 or safetensors")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    parser.add_argument("--colour", default="rgb", help="of the photos: rgb or bgr (OpenCV)")
    parser.add_argument("--layout", default="nchw", help="of the photos: nchw or nhwc (OpenCV)")
    parser.add_argument("--input", default="uint8", help="uint8, or float32 in 0..255 (DeepStream)")
    options = parser.parse_intermixed_args(arguments)

    from crossreid.engine.deploy.embedder import Embedder
    from crossreid.engine.deploy.export import export

    if options.format == "onnx":
        need("--format onnx", "export")
    embedder = Embedder(options.checkpoint, device="cpu", overrides=options.overrides)
    meta = export(
        embedder,
        options.format,
        options.out,
        colour=options.colour,
        layout=options.layout,
        dtype=options.input,
    )
    if "difference" in meta:
        print(f"largest difference to torch: {meta['difference']:.2g}")
    if "architecture" in meta:
        print(f"{meta['layout']} names of {meta['architecture']}, {meta['weights']} tensors: {meta['note']}")
    beside = sorted(p.name for p in options.out.parent.glob(f"{options.out.stem}*") if p != options.out)
    print(f"{options.out} ({', '.join(beside)}), model {meta['digest']}")

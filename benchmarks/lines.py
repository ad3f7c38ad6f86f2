"""Lines of code by folder, of this checkout and of one of version 0.1: ``python benchmarks/lines.py OLD``.

Blank lines, comments and docstrings do not count. "Same features" leaves out files that hold nothing but new ones.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

FOLDERS = ("configs", "datasets", "datasets/synthetic", "engine", "losses", "modeling")
NEW = """
configs/bau configs/camera_proxy configs/cluster configs/supervised configs/paths configs/shared_checks
datasets/cameras datasets/cuhk_sysu datasets/duplicates datasets/listing datasets/raw_crops
engine/arithmetic engine/commands/ engine/comparison/ engine/deploy/ engine/extras engine/fitting engine/sweeps/
engine/trackers engine/evaluation/camera_ engine/evaluation/clusters engine/evaluation/criteria
engine/evaluation/dbscan
engine/methods/arn_step engine/methods/bau engine/methods/camera_proxy engine/methods/cluster_contrast
engine/methods/relabel engine/methods/supervised engine/training/adapt engine/training/stages
engine/training/watch losses/alignment losses/clusters losses/proxies modeling/aligned_net modeling/arn
modeling/batch_groups modeling/clip modeling/cluster modeling/controlled_memory modeling/conversion
modeling/efficientnet_names modeling/families modeling/foreign_names modeling/ibn modeling/jpm
modeling/osnet modeling/paul_weights modeling/pooling modeling/positions modeling/pseudo_labels
modeling/side_information modeling/strong_net modeling/swin modeling/timm_nets modeling/torchvision_nets
modeling/transformer modeling/vit modeling/whole_networks
""".split()  # noqa: SIM905
SILENT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def code_lines(file: Path) -> int:
    text = file.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def count(root: Path, *, left_out: tuple[str, ...] = ()) -> Counter[str]:
    found: Counter[str] = Counter()
    for file in root.glob("*/**/*.py"):
        name = file.relative_to(root).as_posix()
        folder = max((f for f in FOLDERS if name.startswith(f"{f}/")), key=len, default="")
        if folder and not name.startswith(left_out):
            found[folder] += code_lines(file)
    return found


def main() -> None:
    here = Path(__file__).parent.parent
    columns = (count(Path(sys.argv[1])), count(here, left_out=tuple(NEW)), count(here))
    print("| folder | 0.1 | now, same features | now, in all |\n|---|---|---|---|")
    for folder in FOLDERS:
        print(f"| `{folder}` |", " | ".join(f"{column[folder]:,}" for column in columns), "|")
    print("| all |", " | ".join(f"{sum(column.values()):,}" for column in columns), "|")


if __name__ == "__main__":
    main()

"""Programs that run an exported ONNX file: Python, C++, and a DeepStream configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PYTHON = '''"""python {name}.py PHOTO... : similarities of photos. Needs onnxruntime, numpy and Pillow."""

import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
THRESHOLD = {threshold}  # two photos are of one person from this similarity on; None: not calibrated


def embed(path):
    pixels = np.asarray(Image.open(path).convert("RGB")){reorder}
    return session.run(["vectors"], {{"images": np.ascontiguousarray(pixels[None]){cast}}})[0][0]


vectors = np.stack([embed(path) for path in sys.argv[1:]])
print(vectors @ vectors.T)
'''

CPP = """// The similarity of two raw images of {dtype} {layout} {colour} pixels, each HEIGHT x WIDTH:
//   g++ -std=c++17 -O2 {name}.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o {name}
//   ./{name} first.raw second.raw HEIGHT WIDTH
// $ORT is the unpacked onnxruntime-linux-x64-*.tgz. OpenCV: cv::imread gives uint8 NHWC BGR, export with
// --colour bgr --layout nhwc and pass image.data.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

using Pixel = {ctype};

static std::vector<float> embed(Ort::Session& session, std::vector<Pixel>& pixels, int64_t height, int64_t width) {{
  const int64_t shape[] = {shape};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto input = Ort::Value::CreateTensor<Pixel>(memory, pixels.data(), pixels.size(), shape, 4);
  const char* inputs[] = {{"images"}};
  const char* outputs[] = {{"vectors"}};
  auto result = session.Run(Ort::RunOptions{{}}, inputs, &input, 1, outputs, 1);
  const float* values = result[0].GetTensorData<float>();
  return std::vector<float>(values, values + {dim});
}}

static std::vector<Pixel> read(const char* path, size_t count) {{
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (bytes.size() != count * sizeof(Pixel)) {{
    std::fprintf(stderr, "%s: %zu bytes, expected %zu\\n", path, bytes.size(), count * sizeof(Pixel));
    std::exit(2);
  }}
  const Pixel* first = reinterpret_cast<const Pixel*>(bytes.data());
  return std::vector<Pixel>(first, first + count);
}}

int main(int argc, char** argv) {{
  if (argc != 5) return std::fprintf(stderr, "usage: %s FIRST SECOND HEIGHT WIDTH\\n", argv[0]), 2;
  const int64_t height = std::atoll(argv[3]), width = std::atoll(argv[4]);
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "crossreid");
  Ort::Session session(env, "{file}", Ort::SessionOptions{{}});
  auto first = read(argv[1], 3 * height * width), second = read(argv[2], 3 * height * width);
  auto a = embed(session, first, height, width), b = embed(session, second, height, width);
  float similarity = 0;
  for (size_t i = 0; i < a.size(); ++i) similarity += a[i] * b[i];
  std::printf("%.6f\\n", similarity);
}}
"""

DEEPSTREAM = """# DeepStream nvinfer, a secondary model on persons. Export with --input float32 --layout nchw:
# nvinfer feeds float pixels; normalisation and unit length are in the graph, so that nothing is scaled here.
[property]
gpu-id=0
onnx-file={file}
batch-size=16
network-mode=2
process-mode=2
network-type=100
model-color-format={model_colour}
net-scale-factor=1.0
infer-dims=3;{height};{width}
output-blob-names=vectors
output-tensor-meta=1
gie-unique-id=2
operate-on-gie-id=1
operate-on-class-ids=0
maintain-aspect-ratio=0
"""


def write_snippets(out: Path, meta: dict[str, Any]) -> list[Path]:
    """Write ``NAME.py``, ``NAME.cpp`` and ``NAME-deepstream.txt`` beside an ONNX file."""
    given = meta["input"]
    bgr, nchw, floating = given["colour"] == "bgr", given["layout"] == "nchw", given["dtype"] == "float32"
    values = {
        "name": out.stem,
        "file": out.name,
        "dim": meta["dim"],
        "threshold": (meta["calibration"] or {}).get("same"),
        "reorder": ("[..., ::-1]" if bgr else "") + (".transpose(2, 0, 1)" if nchw else ""),
        "cast": ".astype(np.float32)" if floating else "",
        "dtype": given["dtype"],
        "layout": given["layout"].upper(),
        "colour": given["colour"].upper(),
        "ctype": "float" if floating else "uint8_t",
        "shape": "{1, 3, height, width}" if nchw else "{1, height, width, 3}",
        "model_colour": int(bgr),
        "height": meta["size"][0],
        "width": meta["size"][1],
    }
    files = []
    for suffix, text in ((".py", PYTHON), (".cpp", CPP), ("-deepstream.txt", DEEPSTREAM)):
        path = out.with_name(out.stem + suffix)
        path.write_text(text.format(**values), encoding="utf-8")
        files.append(path)
    return files

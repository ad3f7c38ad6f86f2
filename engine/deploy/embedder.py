"""``Embedder``: a checkpoint as a function from photos to unit vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F

from crossreid.engine.deploy.network import load_extractor
from crossreid.engine.deploy.photos import Image8, load_pixels
from crossreid.engine.errors import InputError
from crossreid.engine.hardware import for_evaluation
from crossreid.engine.log import progress_bar
from crossreid.modeling.side_information import known_cameras

Photos = Sequence[str | Path | Image.Image | Image8]


class EmbeddingNetwork(nn.Module):
    """A retrieval network with normalisation before and unit length after it.

    Args:
        extractor: normalised images [B, 3, H, W] to features [B, D].
        mean, std: of RGB in 0..1.
        flip: add the features of the mirrored images, as ``TEST.FLIP`` does.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, extractor: nn.Module, mean: Sequence[float], std: Sequence[float], *, flip: bool
    ) -> None:
        super().__init__()
        self.extractor, self.flip = extractor, flip
        self.register_buffer("mean", 255 * torch.tensor(list(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(list(std)).view(1, 3, 1, 1)), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """RGB images [B, 3, H, W] in 0..255, of any type, to unit vectors [B, D]."""
        pixels = (images.float() - self.mean) * self.scale
        vectors = self.extractor(pixels).float()
        if self.flip:
            vectors = F.normalize(vectors) + F.normalize(self.extractor(pixels.flip(3)).float())
        return F.normalize(vectors)


class Embedder:
    """Unit vectors of photos by a checkpoint's network, in float32.

    They are the features of ``eval.py`` at ``SOLVER.AMP float32``, brought to length 1.

    Args:
        checkpoint: a path.
        device: ``cpu``, ``cuda``, ``cuda:1``, …; None: a GPU if there is one.
        batch_size: photos a forward pass.
        config: a YAML of the network, for checkpoints that hold none.
        overrides: KEY VALUE pairs.

    Attributes:
        dim: D.
        size: height and width that photos are resized to.
        digest: of weights and preprocessing; equal digests give equal vectors.
        calibration: what ``crossreid calibrate`` stored in the checkpoint, or None.

    Raises:
        ModelError, InputError: a checkpoint that cannot be used, a device that is not there.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        config: str | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: give 1 or more")
        self.checkpoint = Path(checkpoint).expanduser()
        self.cfg, extractor = load_extractor(self.checkpoint, config, list(overrides))
        if known_cameras(extractor) is not None:
            raise InputError(
                f"{self.checkpoint} embeds the camera of each image (MODEL.SIE true), and photos alone tell none: "
                "MODEL.SIE false leaves the camera embedding out"
            )
        self.device, self.batch_size, self.overrides = _device(device), batch_size, tuple(overrides)
        options = self.cfg.INPUT
        self.size = (int(options.SIZE[0]), int(options.SIZE[1]))
        network = EmbeddingNetwork(extractor.eval(), options.MEAN, options.STD, flip=self.cfg.TEST.FLIP)
        self.digest = digest(network, self.size)
        self.network = network.to(self.device).eval()
        self.dim = int(self._embed(np.zeros((1, 3, *self.size), np.uint8)).shape[1])

    def __call__(
        self, photos: str | Path | Photos, *, progress: bool = False, whole_batches: bool = False
    ) -> NDArray[np.float32]:
        """Vectors of photos.

        Args:
            photos: paths, PIL images or uint8 RGB arrays [h, w, 3] of any size; a single path counts as one photo.
            progress: show a bar.
            whole_batches: fill the last batch up, so that a vector's bits do not depend on how many photos come.

        Returns:
            [N, D] float32, L2-normalised.

        Raises:
            InputError: a photo that does not decode or is smaller than 8 pixels.
        """
        if isinstance(photos, (str, Path)):
            photos = [photos]
        result = np.empty((len(photos), self.dim), np.float32)
        bar = progress_bar(len(photos), "features", enabled=progress)
        for start in range(0, len(photos), self.batch_size):
            part = photos[start : start + self.batch_size]
            pixels = load_pixels(part, self.size)
            if whole_batches and len(part) < self.batch_size:
                filling = np.zeros((self.batch_size - len(part), *pixels.shape[1:]), np.uint8)
                pixels = np.concatenate([pixels, filling])
            result[start : start + len(part)] = self._embed(pixels)[: len(part)]
            bar.update(len(part))
        bar.close()
        return result

    @torch.no_grad()
    def _embed(self, pixels: Image8) -> NDArray[np.float32]:
        with for_evaluation():
            vectors = self.network(torch.from_numpy(pixels).to(self.device))
        return vectors.cpu().numpy()

    @property
    def calibration(self) -> dict[str, Any] | None:
        from crossreid.modeling.weights import read_checkpoint

        found = read_checkpoint(self.checkpoint).get("calibration")
        return found if isinstance(found, dict) and found.get("digest") == self.digest else None


def digest(network: EmbeddingNetwork, size: tuple[int, int]) -> str:
    """16 hexadecimal digits that tell a network with its preprocessing from every other one."""
    code = hashlib.sha256(f"{size} {network.flip}".encode())
    tensors = {**network.extractor.state_dict(), "input.mean": network.mean, "input.scale": network.scale}
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous().numpy()
        code.update(f"{name} {value.dtype} {value.shape}".encode())
        code.update(value.tobytes())
    return code.hexdigest()[:16]


def _device(wish: str | torch.device | None) -> torch.device:
    if wish is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(int(wish) if isinstance(wish, str) and wish.isdecimal() else wish)
    except RuntimeError:
        raise InputError(
            f"device {str(wish)!r} does not exist: give cpu, or a GPU as cuda, cuda:1 or 1"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {wish}: PyTorch finds {torch.cuda.device_count()} GPUs here; give cpu")
    return device

import logging
from pathlib import Path

import pytest
import torch

from crossreid.engine.recorder import Recorder
from crossreid.modeling import ModelError
from crossreid.modeling.weights import read_checkpoint


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": {"w": torch.full((1000,), 1.5)}}, path)
    assert read_checkpoint(path)["model"]["w"].sum() == 1500
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((8,), 1.5).numpy().tobytes()) + 9] ^= 4
    path.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        read_checkpoint(path)


def test_a_damaged_line_is_named_and_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xff\n[3]\n{"step": 2}\n{"step": 9}\n{"st')
    logger = logging.getLogger("crossreid")
    logger.addHandler(caplog.handler)
    try:
        Recorder(tmp_path, tensorboard=False, after=2).close()
    finally:
        logger.removeHandler(caplog.handler)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert {record.getMessage().rpartition("line ")[2][0] for record in caplog.records} == {"2", "3", "6"}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]

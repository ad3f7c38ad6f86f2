"""The page: searches by the HTTP client and in a headless browser, and what it refuses."""

from __future__ import annotations

import io
import socket
import threading
from pathlib import Path

import pytest
from PIL import Image

from crossreid import Embedder
from crossreid.engine.commands import main
from crossreid.engine.deploy.index import Index, build_index
from crossreid.engine.deploy.search import Filter, person, search
from tests.browser import CHROMIUM, Browser

pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")

from crossreid.engine.deploy.server import LARGEST, create_app  # noqa: E402


@pytest.fixture
def made(checkpoint: Path, cameras: Path, tmp_path: Path) -> tuple[Index, Embedder]:
    embedder = Embedder(checkpoint, device="cpu")
    index, _ = build_index(embedder, cameras, tmp_path / "index")
    index.remember(calibration={"digest": index.digest, "same": 0.98, "different": 0.5})
    return index, embedder


def test_a_search_is_that_of_the_library(made: tuple[Index, Embedder]) -> None:
    index, embedder = made
    client = testclient.TestClient(create_app(index, embedder))
    about = client.get("/api/index").json()
    assert about == {"photos": len(index), "cameras": ["door1", "door2", "door3"], "calibrated": True}
    path = Path(index.columns.paths[4])
    answer = client.post(
        "/api/search",
        files=[("photo", (path.name, path.read_bytes()))],
        data={"top": "5", "exclude": "door1", "box": "0,0,1,0.5"},
    ).json()["hits"]
    with Image.open(path) as image:
        upper = image.convert("RGB").crop((0, 0, 32, 32))
    expected = search(index, person(embedder([upper])), top=5, only=Filter(exclude=("door1",)))
    assert [hit["row"] for hit in answer] == [hit.row for hit in expected]
    assert answer[0]["score"] == pytest.approx(expected[0].score, abs=1e-4)
    assert {hit["verdict"] for hit in answer} <= {"same person", "unsure", "different"}
    both = [("photo", (name, Path(name).read_bytes())) for name in index.columns.paths[:2]]
    first = client.post("/api/search", files=both, data={"top": "1"}).json()["hits"][0]
    assert first["row"] == search(index, person(embedder(index.columns.paths[:2])), top=1)[0].row

    photo = client.get(f"/photo/{first['row']}")
    assert photo.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(photo.content)).size == (128, 256)
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text


def test_what_is_refused(made: tuple[Index, Embedder], tmp_path: Path) -> None:
    client = testclient.TestClient(create_app(*made))
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in ("/photo/../secret.txt", "/photo/..%2fsecret.txt", "/photo//etc/passwd", "/secret.txt"):
        assert client.get(path).status_code in (404, 422)
    assert client.get("/photo/-1").status_code == 404
    assert client.get(f"/photo/{len(made[0])}").status_code == 404

    def refused(content: bytes, **data: str) -> str:
        answer = client.post("/api/search", files=[("photo", ("x.jpg", content))], data=data)
        assert answer.status_code in (400, 413)
        return answer.json()["error"]

    assert "no photo that can be read" in refused(b"<svg></svg>")
    assert "no photo that can be read" in refused(Path(made[0].columns.paths[0]).read_bytes()[:200])
    assert "12 MB" in refused(b"0" * (LARGEST + 70_000))
    small, fine = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (5, 5)).save(small, "PNG")
    Image.new("RGB", (64, 64)).save(fine, "PNG")
    assert "5x5" in refused(small.getvalue())
    assert "too small" in refused(fine.getvalue(), box="0.5,0.5,0.51,0.51")
    assert "left,top,right,bottom" in refused(fine.getvalue(), box="half")
    assert "it has door1" in refused(fine.getvalue(), exclude="roof")
    assert "1 to 200" in refused(fine.getvalue(), top="100000")


def test_a_token_guards_every_address(
    made: tuple[Index, Embedder], capsys: pytest.CaptureFixture[str]
) -> None:
    client = testclient.TestClient(create_app(*made, token="correct horse"))
    for path in ("/", "/api/index", "/photo/0", "/?token=wrong"):
        assert client.get(path).status_code == 401
    assert client.get("/?token=correct horse").status_code == 200
    assert client.get("/photo/0", headers={"X-Token": "correct horse"}).status_code == 200
    with pytest.raises(SystemExit) as caught:
        main(["serve", str(made[0].folder), "--host", "0.0.0.0"])
    assert caught.value.code == 2
    assert "give --token" in capsys.readouterr().err


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
def test_in_a_browser(made: tuple[Index, Embedder], tmp_path: Path) -> None:
    """Headless Chromium picks a photo and searches; arrow keys walk through the hits; nothing sticks out on a phone."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(*made), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    index = made[0]
    try:
        with Browser(tmp_path / "profile", 420, 900) as browser:
            browser.open(f"http://127.0.0.1:{port}")
            browser.choose("#file", [index.columns.paths[7]])
            browser.value("document.getElementById('go').click()")
            browser.wait("document.querySelectorAll('.hit').length > 0")
            hits = browser.value("[...document.querySelectorAll('.hit')].map(hit => hit.textContent)")
            assert len(hits) == len(index)  # 40 wanted, fewer there
            assert all(any(word in hit for word in ("same person", "unsure", "different")) for hit in hits)
            assert browser.value("document.documentElement.scrollWidth - window.innerWidth") <= 0
            browser.wait("document.activeElement.textContent.startsWith('1.')")
            browser.press("ArrowRight")
            assert browser.value("document.activeElement.textContent").startswith("2.")
    finally:
        server.should_exit = True
        thread.join(10)

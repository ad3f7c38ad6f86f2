"""The web application over an index: one page, a search by an uploaded photo, and the gallery's thumbnails.

Annotations stay objects here: FastAPI reads those of functions inside a function.
"""

import hmac
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from crossreid.engine.deploy.embedder import Embedder
from crossreid.engine.deploy.index import Index
from crossreid.engine.deploy.photos import SMALLEST, parse_time
from crossreid.engine.deploy.render import moment, thumbnail, verdict
from crossreid.engine.deploy.search import Filter, Hit, person, search
from crossreid.engine.errors import InputError

LARGEST = 12 * 2**20  # bytes of an upload
MOST_PIXELS = 50_000_000
KINDS = ("JPEG", "PNG", "WEBP", "BMP")
MOST_HITS = 200
PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def open_upload(content: bytes) -> Image.Image:
    """An uploaded photo, upright, as RGB.

    Raises:
        InputError: too large, no photo of a kind that is taken, too small.
    """
    if len(content) > LARGEST:
        raise InputError(f"the photo has more than {LARGEST // 2**20} MB: send a smaller one")
    try:
        with Image.open(io.BytesIO(content), formats=KINDS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(
                    f"the photo has {width}x{height} pixels: at most {MOST_PIXELS // 10**6} million"
                )
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except InputError:
        raise
    except Exception:  # Pillow's plugins raise nearly anything on damaged files
        raise InputError(f"the file is no photo that can be read: send {', '.join(KINDS)}") from None
    if min(upright.size) < SMALLEST:
        raise InputError(f"the photo has {width}x{height} pixels: at least {SMALLEST} on each side")
    return upright


def crop(image: Image.Image, box: str) -> Image.Image:
    """The part of a photo in a box ``left,top,right,bottom`` in shares of its size; empty: all of it.

    Raises:
        InputError: no such box.
    """
    if not box:
        return image
    try:
        left, top, right, bottom = (min(1.0, max(0.0, float(value))) for value in box.split(","))
    except ValueError:
        raise InputError(f"box {box[:60]!r}: give left,top,right,bottom in shares of the photo") from None
    width, height = image.size
    edges = (round(left * width), round(top * height), round(right * width), round(bottom * height))
    if edges[2] - edges[0] < SMALLEST or edges[3] - edges[1] < SMALLEST:
        raise InputError(f"the box is too small: at least {SMALLEST} pixels on each side")
    return image.crop(edges)


def create_app(index: Index, embedder: Embedder, *, token: str = "") -> Any:
    """The application.

    Args:
        index: opened; nothing but its own photos is ever served, and these by row number.
        embedder: the network that made it.
        token: that every request must carry, as ``?token=`` or in the header ``X-Token``; empty: none.

    Returns:
        A FastAPI application.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response

    index.check_model(embedder.digest)
    app = FastAPI(title="crossreid", docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, token)

    @app.exception_handler(InputError)
    async def refuse(request: Request, error: InputError) -> Any:
        return JSONResponse({"error": str(error)}, 400)

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/api/index")
    def about() -> dict[str, Any]:
        calibrated = bool(index.meta.get("calibration"))
        return {"photos": len(index), "cameras": index.columns.camera_names, "calibrated": calibrated}

    @app.get("/photo/{row}")
    def photo(row: int) -> Any:
        if not 0 <= row < len(index):
            return JSONResponse({"error": "no such photo"}, 404)
        buffer = io.BytesIO()
        try:
            thumbnail(index.columns.paths[row], (128, 256)).save(buffer, "JPEG", quality=85)
        except OSError:
            return JSONResponse({"error": "the photo is no longer there"}, 404)
        return Response(buffer.getvalue(), media_type="image/jpeg")

    _add_search(app, index, embedder)
    return app


def _guard(app: Any, token: str) -> None:
    """Refuse requests without the token and uploads that are too large, before anything reads them."""
    from fastapi import Request
    from fastapi.responses import JSONResponse

    @app.middleware("http")
    async def guard(request: Request, go_on: Any) -> Any:
        given = request.headers.get("x-token") or request.query_params.get("token") or ""
        if token and not hmac.compare_digest(given.encode(), token.encode()):
            return JSONResponse({"error": "a token is needed: open /?token=..."}, 401)
        if int(request.headers.get("content-length") or 0) > LARGEST + 65536:
            return JSONResponse({"error": f"more than {LARGEST // 2**20} MB: send a smaller photo"}, 413)
        if request.method == "POST" and "content-length" not in request.headers:
            return JSONResponse({"error": "an upload needs its length"}, 411)
        response = await go_on(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def _add_search(app: Any, index: Index, embedder: Embedder) -> None:
    """The search by uploaded photos of one person."""
    from fastapi import File, Form, UploadFile

    one_at_a_time = threading.Lock()

    @app.post("/api/search")
    def find(
        photo: list[UploadFile] = File(),  # noqa: B008
        box: str = Form(""),
        top: int = Form(40),
        exclude: str = Form(""),
        start: str = Form(""),
        end: str = Form(""),
        rerank: bool = Form(False),
    ) -> dict[str, Any]:
        if not 1 <= top <= MOST_HITS:
            raise InputError(f"top {top}: give 1 to {MOST_HITS}")
        if len(photo) > 20:
            raise InputError(f"{len(photo)} photos: at most 20")
        images = [open_upload(item.file.read(LARGEST + 1)) for item in photo]
        if len(images) == 1:
            images = [crop(images[0], box)]
        names = tuple(name for name in exclude.split("\n") if name)
        times = [parse_time(text) if text else limit for text, limit in ((start, -np.inf), (end, np.inf))]
        with one_at_a_time:
            query = person(embedder(images))
        hits = search(index, query, top=top, only=Filter((), names, *times), rerank=rerank)
        return {"hits": [_shown(hit, index.meta.get("calibration")) for hit in hits]}


def _shown(hit: Hit, calibration: Any) -> dict[str, Any]:
    """A hit as the page shows it."""
    return {
        "rank": hit.rank,
        "row": hit.row,
        "name": Path(hit.path).name,
        "camera": hit.camera,
        "time": moment(hit.time),
        "score": round(hit.score, 4),
        "verdict": verdict(hit.score, calibration),
    }

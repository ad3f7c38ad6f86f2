"""A local web page over an index: crossreid serve INDEX [--port 8000] [--host 127.0.0.1 --token SECRET].

The page is reached from this machine alone. Any other address needs a token, which the page is opened with:
http://HOST:PORT/?token=SECRET.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

from crossreid.engine.commands import command_parser
from crossreid.engine.errors import InputError, guarded
from crossreid.engine.extras import need


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` default to the command line's."""
    parser = command_parser("serve", __doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("overrides", nargs="*", help="KEY VALUE pairs")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--token", default="", help="needed for any address but this machine's own")
    parser.add_argument("--checkpoint", help="if it is no longer where the index was made from")
    parser.add_argument("--device", help="cpu, or a GPU's id; default: a GPU if there is one")
    options = parser.parse_intermixed_args(arguments)
    if not 0 < options.port < 65536:
        raise InputError(f"--port {options.port}: give a number from 1 to 65535")
    if not loopback(options.host) and len(options.token) < 8:
        raise InputError(
            f"--host {options.host} lets other machines in: give --token with 8 characters or more, or leave --host out"
        )

    from crossreid.engine.deploy.index import open_index
    from crossreid.engine.deploy.server import create_app

    need("serve", "serve")
    import uvicorn

    index = open_index(options.index)
    embedder = index.embedder(options.checkpoint, options.device, options.overrides)
    app = create_app(index, embedder, token=options.token)
    shown = f"?token={options.token}" if options.token else ""
    print(f"http://{options.host}:{options.port}/{shown}   (Ctrl-C ends it)", flush=True)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


def loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Serve voices to the programs that speak OpenAI's API, to Home Assistant, and to a page in the browser.

    pip install -r requirements-server.txt
    python scripts/serve.py                                the bundled voice, at http://127.0.0.1:8000
    python scripts/serve.py voices=voices port=8080        all voices of a folder
    python scripts/serve.py host=0.0.0.0 keys=keys.txt     for other machines, with keys
    python scripts/serve.py host=0.0.0.0 wyoming_port=10200        also the Wyoming protocol, for Home Assistant

    curl http://127.0.0.1:8000/v1/audio/speech -H "Content-Type: application/json" \\
        -d '{"model": "tts-1", "voice": "voice", "input": "Hello."}' -o hello.mp3

SIGTERM or Ctrl-C lets requests that are running end; the second one does not wait for them. See docs/server.md.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help
    from common.threads import before_torch

    show_help("serve", __doc__)
    before_torch()

import sys
from typing import Any

from common.entry import hydra_entry
from common.errors import require_packages
from common.schema import from_dict
from synthesis.server.options import ServerOptions

PACKAGES = ("fastapi", "uvicorn", "av", "prometheus_client", "wyoming")


@hydra_entry("serve")
def main(values: dict[str, Any]) -> None:
    options = from_dict(ServerOptions, values)
    require_packages(PACKAGES, "pip install -r requirements-server.txt")
    from synthesis.server.process import serve, start_log

    start_log()
    if not options.is_local and not options.keys:
        print(
            f"warning: host={options.host} lets other machines use this server without a key; set keys=FILE",
            file=sys.stderr,
        )
    if not options.is_local and options.keys and options.wyoming_port:
        print(
            f"warning: Wyoming knows no keys: other machines use wyoming_port={options.wyoming_port} without one; "
            "let a firewall admit only Home Assistant",
            file=sys.stderr,
        )
    serve(options)


if __name__ == "__main__":
    main()

"""Where a deployment keeps what it makes: artifacts, outputs, run-time files."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def default_home() -> Path:
    """`$VIDEOSDGX_HOME`, or `home` in the checkout: a checkout and its artifacts belong together."""
    return Path(os.environ.get("VIDEOSDGX_HOME") or CHECKOUT / "home").expanduser().resolve()

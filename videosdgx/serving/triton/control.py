"""Loading and unloading a model through Triton's repository API, as a client does.

`pb_utils.load_model` does the same without a connection, but when a load fails it reads the reason from shared memory
that Triton may have freed by then (`SendMessage` in Triton's pb_stub.h acknowledges before it reads). In about one failed
load of twenty that killed the calling process; it died with a lock in its hands, which killed the whole server.
"""

import json
import urllib.error
import urllib.request

SECONDS = 900  # loading a 14B engine from disk takes minutes


class ModelControlFailed(Exception):
    """Triton could not load or unload a model; the message is its own."""


def load_model(url: str, name: str) -> None:
    """Load a model, or load it anew, and wait until it is ready.

    Args:
        url: of Triton's HTTP endpoint, such as http://127.0.0.1:8000.

    Raises:
        ModelControlFailed: with Triton's reason.
        OSError: the endpoint did not answer within `SECONDS`.
    """
    _post(f"{url}/v2/repository/models/{name}/load")


def unload_model(url: str, name: str) -> None:
    """Begin to unload a model: it is gone when its running requests have ended. Arguments and errors as `load_model`."""
    _post(f"{url}/v2/repository/models/{name}/unload")


def _post(url: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the environment names
    try:
        with direct.open(urllib.request.Request(url, data=b"{}", method="POST"), timeout=SECONDS):
            pass
    except urllib.error.HTTPError as error:
        raise ModelControlFailed(json.loads(error.read())["error"]) from None

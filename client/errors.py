"""What can go wrong in a client. Every message is one line that a person can act on."""


class ClientError(Exception):
    """Base of all errors of this client."""


class ServerUnavailable(ClientError):
    """Nothing answers at the address, or the connection broke."""


class ServerError(ClientError):
    """The server answered with an error; the message is the server's."""


class InvalidValue(ClientError, ValueError):
    """A value cannot be sent as the input that it is meant for."""


class GenerationTimeout(ClientError, TimeoutError):
    """A generation took longer than the caller allowed; it was cancelled on the server."""


def one_line(text: str) -> str:
    """A message without line ends and runs of blanks: what the server says may hold a traceback."""
    return " ".join(text.split())

"""Everything that talks to Triton: the Python client, the command line, the benchmark. Needs neither torch nor diffusers."""

from client.errors import ClientError, GenerationTimeout, InvalidValue, ServerError, ServerUnavailable
from client.results import Chunk, Event, Video
from client.video_client import VideoClient

__all__ = [
    "Chunk",
    "ClientError",
    "Event",
    "GenerationTimeout",
    "InvalidValue",
    "ServerError",
    "ServerUnavailable",
    "Video",
    "VideoClient",
]

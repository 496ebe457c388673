"""Fragments in Chromium: as a file, and handed over one by one while more are made (Media Source Extensions)."""

import base64
import http.server
import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.media.test_fragments import FPS, SIZES, fragments

CHROMIUM = shutil.which("chromium")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--autoplay-policy=no-user-gesture-required"]
PAGE = """<video id=file muted src="data:video/mp4;base64,%s"></video><video id=grown muted></video><script>
const tell = (what) => fetch("/tell", {method: "POST", body: JSON.stringify(what)});
async function grow(parts) {
  const source = new MediaSource(), ends = [];
  grown.src = URL.createObjectURL(source);
  await new Promise((done) => source.onsourceopen = done);
  const buffer = source.addSourceBuffer('video/mp4; codecs="avc1.64000a"');
  for (const part of parts) {
    buffer.appendBuffer(Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0)));
    await new Promise((done) => buffer.onupdateend = done);
    ends.push(buffer.buffered.length == 1 ? buffer.buffered.end(0) : -1);
  }
  return ends;
}
file.onerror = () => tell({error: file.error.message});
file.onended = async () => {
  try {
    tell({frames: file.getVideoPlaybackQuality().totalVideoFrames, seconds: file.duration, ends: await grow(%s)});
  } catch (error) { tell({error: String(error)}); }
};
file.play();
</script>"""


def played_by_chromium(parts: list[bytes], folder: Path) -> dict[str, Any]:
    """What the page tells when the video has been played to its end."""
    texts = [base64.b64encode(part).decode() for part in parts]
    page = (PAGE % (base64.b64encode(b"".join(parts)).decode(), json.dumps(texts))).encode()
    told: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page)

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder}", "--remote-debugging-port=0"]
        browser = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.server_port}/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            return told.get(timeout=60)
        finally:
            browser.terminate()
            browser.wait(20)
            server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_chromium_plays_every_frame_and_takes_each_fragment_when_it_comes(tmp_path: Path) -> None:
    told = played_by_chromium(fragments(), tmp_path)
    assert "error" not in told, told
    assert told["frames"] == sum(SIZES)
    # One range without gaps, longer with every fragment; with B-frames the end lies up to two frames further.
    ends = [sum(SIZES[: count + 1]) / FPS for count in range(len(SIZES))]
    assert all(abs(end - expected) < 2.1 / FPS for end, expected in zip(told["ends"], ends, strict=True))

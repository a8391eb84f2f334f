"""`python -m dualforce_model.download.bench --json`: how fast lists are read and planned, and what faults cost a fetch."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.estimate import estimate
from dualforce_model.download.failures import Failure
from dualforce_model.download.fetch import FetchError, Session
from dualforce_model.download.lists import read_lists
from dualforce_model.download.manners import Manners
from dualforce_model.download.schedule import work_off
from dualforce_model.media import write_video

ROWS, FILES, FAULTY = 10_000, 500, 20  # every 20th file is faulty at first: 5 %


def plan_lists(folder: Path, rows: int) -> dict[str, float]:
    """Wall seconds to read and plan a list of `rows` clips, for the three forms."""
    names = [f"{n:011d}" for n in range(rows)]
    hdtf, vfhq = folder / "hdtf", folder / "vfhq"
    hdtf.mkdir()
    vfhq.mkdir()
    for what, line in {
        "video_url": "V{0} https://www.youtube.com/watch?v={0}&t=6s",
        "annotion_time": "V{0}.mp4 00:05-01:10",
        "crop_wh": "V{0}_0.mp4 396 465 32 465",
        "resolution": "V{0}.mp4 720",
    }.items():
        (hdtf / f"RD_{what}.txt").write_text("".join(line.format(name) + "\n" for name in names))
    box = {"top": 0.0, "bottom": 0.9, "left": 0.2, "right": 0.7}
    clips = {f"{n}_0": {"ytb_id": n, "duration": {"start_sec": 3.5, "end_sec": 9.0}, "bbox": box} for n in names}
    (folder / "celebv.json").write_text(json.dumps({"meta_info": {}, "clips": clips}))
    for name in names:
        (vfhq / f"Clip+{name}+P0+C0+F100-199.txt").write_text("H 1080\nW 1920\nFPS 25.0\nCROP: 583 66 1218 701\n")
    seconds = {}
    for dataset, path in (("hdtf", hdtf), ("celebv_hq", folder / "celebv.json"), ("vfhq", vfhq)):
        config = DownloadConfig(lists={dataset: path})
        begun = time.perf_counter()
        found = estimate(read_lists(config), config, cores=2)
        seconds[dataset] = round(time.perf_counter() - begun, 3)
        assert found["total"]["clips"] == rows, found["total"]
    return seconds


def fetch_files(folder: Path, clip: bytes, files: int, faults: bool) -> dict[str, Any]:
    """Fetch small files from a server on this machine; every 20th fails once when there are `faults`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(clip, FAULTY if faults else 0))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    name = f"127.0.0.1:{server.server_address[1]}"
    listed = folder / "links.txt"
    folder.mkdir()
    listed.write_text("".join(f"v{n} http://{name}/{n}.mp4\n" for n in range(files)))
    config = DownloadConfig(lists={"links": listed}, allow_hosts=(name,), keep_free_gib=0.0, backoff_s=0.5)
    (manifest,) = read_lists(config)
    local, kinds = threading.local(), Counter[str]()

    def attempt(index: int) -> tuple[str, Failure | None]:
        local.session = getattr(local, "session", None) or Session(config)
        try:
            return local.session.fetch(manifest.videos[index], "bench", folder / "videos").path.name, None
        except FetchError as error:
            kinds[error.failure.kind] += 1
            return "", error.failure

    begun, cpu = time.perf_counter(), time.process_time()
    rounds = work_off([name] * files, attempt, lambda index, failure: "", Manners(config), threading.Event())
    names = [done for _, done, _ in rounds]
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    server.shutdown()
    server.server_close()
    whole = [path for path in (folder / "videos").glob("*.mp4") if path.read_bytes() == clip]
    return {
        "files": files,
        "obtained": len(whole),
        "listed_as_done": sum(map(bool, names)),
        "faults_met": dict(sorted(kinds.items())),
        "wall_seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
    }


def _handler(clip: bytes, faulty: int) -> type[BaseHTTPRequestHandler]:
    met: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Keep quiet."""

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            first, last = (int(n or -1) for n in (asked or "bytes=0-").removeprefix("bytes=").split("-"))
            bad = faulty and int(self.path.strip("/").partition(".")[0]) % faulty == 0 and self.path not in met
            refuse = bad and int(self.path.strip("/").partition(".")[0]) % (2 * faulty) == 0
            if refuse:  # one half of the faults is a refusal, the other a connection cut in the middle
                met.add(self.path)
            self.send_response(503 if refuse else 206 if asked else 200)
            body = b"" if refuse else clip[first : last + 1 or len(clip)]
            if asked and not refuse:
                self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(clip)}")
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if bad and not refuse and last < 0:
                met.add(self.path)
                body, self.close_connection = body[: len(body) // 2], True
            self.wfile.write(body)

    return Handler


def measure(rows: int = ROWS, files: int = FILES) -> dict[str, Any]:
    """All figures of this room."""
    with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as place:
        folder = Path(place)
        pictures = np.random.default_rng(0).integers(0, 255, (25, 64, 64, 3), np.uint8)
        write_video(folder / "clip.mp4", pictures, np.zeros(16_000, np.float32))
        clip = (folder / "clip.mp4").read_bytes()
        fetch_files(folder / "warm", clip, 8, faults=False)  # yt-dlp's import is paid once per process
        clean = fetch_files(folder / "clean", clip, files, faults=False)
        faulty = fetch_files(folder / "faulty", clip, files, faults=True)
        return {
            "plan_seconds": plan_lists(folder, rows),
            "plan_rows": rows,
            "fetch": clean,
            "fetch_with_faults": faulty,
            "wall_ratio": round(faulty["wall_seconds"] / clean["wall_seconds"], 3),
            "file_bytes": len(clip),
            "cores": len(os.sched_getaffinity(0)),
        }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON (the only format)")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--files", type=int, default=FILES)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.rows, arguments.files), indent=1))


if __name__ == "__main__":
    main()

"""Load by wrk, which takes less CPU time per request than our own load generator, `load.py`.

https://github.com/wg/wrk; Debian: `apt-get install wrk`.
"""

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Template

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.serving.load import Result

# wrk calls `request` for each request, and `done` at the end; times are microseconds.
_SCRIPT = Template("""
local requests, turn = {$requests}, 0
function request()
    turn = turn % #requests + 1
    return requests[turn]
end
function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"seconds": %f, "replies": %d, "refused": %d, "failures": %d, "p50": %f, "p99": %f}',
        summary.duration / 1e6, summary.requests, errors.status, errors.connect + errors.read + errors.timeout,
        latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
""")


def is_installed() -> bool:
    """Returns whether wrk can be run."""
    return shutil.which("wrk") is not None


def load(address: tuple[str, int], requests: Sequence[bytes], *, connections: int, seconds: float) -> Result:
    """Sends `requests` in turn over a number of connections.

    Args:
        address: host and port of the server.
        requests: the bytes of each request.
        connections: the number of connections.
        seconds: the length of the measurement; wrk takes whole ones.

    Raises:
        BenchError: wrk failed.
    """
    literals = ", ".join(_lua_string(request) for request in requests)
    with tempfile.TemporaryDirectory(prefix="ganctl-bench-") as folder:
        script = Path(folder) / "script.lua"
        script.write_text(_SCRIPT.substitute(requests=literals), "ascii")
        words = ["wrk", "--threads", "1", "--connections", str(connections), "--timeout", "60s"]
        words += ["--duration", f"{max(1, math.ceil(seconds))}s", "--script", str(script)]
        done = subprocess.run([*words, "http://{}:{}".format(*address)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"wrk ended with status {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    accepted = found["replies"] - found["refused"]
    return Result(
        rate=accepted / found["seconds"],
        p50=found["p50"],
        p99=found["p99"],
        accepted=accepted,
        refused=found["refused"] + found["failures"],
    )


def _lua_string(data: bytes) -> str:
    """Returns a literal of Lua for these bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'

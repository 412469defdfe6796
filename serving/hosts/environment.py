"""The environment of a server's worker processes: few of the variables of the process that starts them."""

from collections.abc import Mapping
from pathlib import Path

# The only variables that workers inherit. Left out: keys and passwords; proxies, whose URLs may hold passwords (nothing
# is downloaded); JAVA_… and TS_…, which override TorchServe's settings.
_INHERITED = ("HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TZ", "USER", "VIRTUAL_ENV")
_INHERITED_PREFIXES = ("CUDA_", "KMP_", "MKL_", "OMP_", "ORT_", "PYTHON")
# Java decodes arguments, variables and file names by the locale. Ours are UTF-8, and so is the workers' output.
_CONSTANT = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
# Weights in huge pages: after a pause, a worker with cold caches needs a fifth less time for an image.
_CONSTANT["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"


def worker_environment(
    given: Mapping[str, str],
    folder: Path,
    *,
    page: bool = True,
    access_log: Path | None = None,
    device: str = "cpu",
) -> dict[str, str]:
    """Returns the environment of workers, which write to `folder` only, except for the access log.

    Args:
        given: the environment of this process.
        folder: the server's private folder.
        page: whether a browser gets the page.
        access_log: folder of the access log, or None.
        device: runs the generator: `cpu`, `cuda`, or `auto`.
    """
    variables = {
        name: value for name, value in given.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    variables |= _CONSTANT | {"TMPDIR": str(folder / "tmp"), "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
    variables["GANCTL_DEVICE"] = device
    if not page:
        variables["GANCTL_PAGE"] = "off"
    if access_log is not None:
        variables["GANCTL_ACCESS_LOG"] = str(access_log.absolute())
    return variables

"""What the logs of a server tell of a failure."""

from pathlib import Path

_DEATHS = ("Backend worker process died", "backend worker process died", "Failed to load model")


class Logs:
    """The logs in a folder: `server.log` of the front end, `workers.log`, and `java.log` of what comes before both."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tell_of_a_death(self) -> bool:
        """Whether a worker could not load its model, or died."""
        return any(death in self._text("workers") + self._text("server") for death in _DEATHS)

    def told(self) -> str:
        """What to tell of them: a worker's traceback where there is one, else the last lines of each."""
        lines = [line.partition(" - ") for line in self._text("workers").splitlines()]
        for place, (head, _, message) in enumerate(lines):
            if message.startswith("Traceback"):
                thread = head.split(" ", 3)[-1]
                told = [message for head, _, message in lines[place:] if head.endswith(thread)]
                return "\nThe worker's own words:\n" + "\n".join(told[:60])
        parts = []
        for name in ("server", "workers", "java"):
            last = self._text(name).splitlines()[-15:]
            if last:
                parts.append(f"\nThe last lines of {name}.log:\n" + "\n".join(last))
        return "".join(parts)

    def _text(self, name: str) -> str:
        path = self._folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

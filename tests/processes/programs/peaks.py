"""How much memory the processes of a tree have at the most: the kernel remembers it, however short it lasted."""

from pathlib import Path

NAMES = ("MyApp.Store", "dev.sessions", "dev.artifacts")


class Peaks:
    """What each process that serves a name has at the most from now on, beyond what it has now."""

    def __init__(self, tree, names=NAMES):
        self._pids = {name: tree.child(name).pid for name in names}
        for pid in self._pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = {name: _read(pid, "VmRSS") for name, pid in self._pids.items()}

    def growth(self):
        """By how many bytes each has grown at its peak, by name."""
        return {name: _read(pid, "VmHWM") - self._before[name] for name, pid in self._pids.items()}

    def check(self, what, most):
        """See that none has grown by more than so many bytes."""
        growth = self.growth()
        print(f"{what}: " + ", ".join(f"{name} grew by {size / 1024**2:.1f} MiB" for name, size in growth.items()))
        assert max(growth.values()) <= most, what


def _read(pid, key):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)

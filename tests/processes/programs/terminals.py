"""A terminal that a test holds the other end of, and ``asm-supervise`` on it."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time

from configurations import MEMORY, configuration
from supervisor_harness import PATIENCE, session, wait_gone
from warm import PROGRAM

ASMCTL = PROGRAM.with_name("asmctl")

TREE = configuration(MEMORY)


class Terminal:
    """A terminal with a session on it. A context manager that leaves nothing running."""

    def __init__(self, directory, runtime_dir, *command, config=TREE, **variables):
        (directory / "tree.toml").write_text(config)
        self.runtime_dir = runtime_dir
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.environ.update({"ASM_RUNTIME_DIR": str(runtime_dir), **variables})
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.execv(command[0], list(map(str, command)))
        self.said = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in session(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def wait_for(self, text):
        """Read what is said until it has this text."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.said:
            assert select.select([self.file], [], [], max(0.0, deadline - time.monotonic()))[0], self.said.decode()
            self.said += os.read(self.file, 65536)

    def write(self, text):
        os.write(self.file, text.encode())

    def close(self):
        """Have the terminal go."""
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def wait(self):
        """Wait for the end of the first process; return how it ended."""
        assert not wait_gone({self.pid})
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def ctl(self, *arguments):
        command = [ASMCTL, *arguments, "--runtime-dir", self.runtime_dir]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    def pids(self):
        """The supervisor and its children."""
        (tree,) = json.loads(self.ctl("status", "--json").stdout)
        return tree["pid"], {child["pid"] for child in tree["children"]}


@contextlib.contextmanager
def ended(process):
    """Leave nothing of a program running, however the test ended."""
    with process:
        try:
            yield process
        finally:
            process.kill()

"""``asm-supervise`` in forks of a process that has imported what it needs: the imports are half of what a tree costs to start.

What a fork does is what the program does, in a process of its own with its own directory, variables and files; so the tests
get what they would start themselves. Those that are about the start itself, or about the terminal, do start it.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import setproctitle

PROGRAM = Path(sys.executable).with_name("asm-supervise")


class Warm:
    """The process that has imported all."""

    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, "-" * 1024]  # there is as much room for a title as for the arguments
        self._process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL)
        theirs.close()
        self._socket = ours
        self._changed = threading.Condition()
        self._pids, self._codes = [], {}
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def start(self, config, *arguments, cwd, env, process_group=None):
        """Start ``asm-supervise CONFIG``, with its output in pipes. The last three are as in ``subprocess.Popen``."""
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        asked = {
            "argv": [str(PROGRAM), str(config), *map(str, arguments)],
            "cwd": str(cwd),
            "env": dict(env),
            "group": process_group,
        }
        with self._changed:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], [out_end, err_end])
            assert self._changed.wait_for(lambda: self._pids, 60), "nothing was started"
            pid = self._pids.pop()
        os.close(out_end)
        os.close(err_end)
        return Started(self, pid, open(out), open(err))

    def code(self, pid, timeout):
        """The exit code of one that was started, or None when the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._codes, timeout)
            return self._codes.get(pid)

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        self._socket.close()
        self._process.wait()

    def _listen(self):
        while data := self._socket.recv(4096):
            said = json.loads(data)
            with self._changed:
                if "code" in said:
                    self._codes[said["pid"]] = said["code"]
                else:
                    self._pids.append(said["pid"])
                self._changed.notify_all()


class Started:
    """One that was started: what the tests use of a ``subprocess.Popen``."""

    def __init__(self, warm, pid, stdout, stderr):
        self._warm = warm
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode = None

    def poll(self):
        self.returncode = self._warm.code(self.pid, 0)
        return self.returncode

    def wait(self, timeout=None):
        self.returncode = self._warm.code(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("asm-supervise", timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def serve(asker):
    """Start what is asked for, and tell how it ended. Returns in the forks, with what they are to do."""
    running = {}
    while True:
        for file in select.select([asker, *running], [], [])[0]:
            if file is not asker:
                pid = running.pop(file)
                os.close(file)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                asker.send(json.dumps({"pid": pid, "code": code}).encode())
                continue
            data, files, _, _ = socket.recv_fds(asker, 1024 * 1024, 2)
            if not data:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                for other in running:
                    os.close(other)
                return json.loads(data), files
            for end in files:
                os.close(end)
            running[os.pidfd_open(pid)] = pid
            asker.send(json.dumps({"pid": pid}).encode())


def become(asked, files):
    """Be what was asked for, as far as a new process would be."""
    null = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate([null, *files]):
        os.dup2(file, number)
        os.close(file)
    if asked["group"] is not None:
        os.setpgid(0, asked["group"])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = asked["argv"]
    sys.path[0] = str(PROGRAM.parent)
    sys.path[1:1] = filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")


def main():
    setproctitle.getproctitle()  # finds out where the title is while the variables still stand beside it
    import asm.cli.run  # noqa: PLC0415  # the tests themselves do without
    import asm.registry  # noqa: PLC0415

    for name in ("file", "memory", "sql"):
        asm.registry.load(name)
    asker = socket.socket(fileno=os.dup(0))
    gc.freeze()
    asked, files = serve(asker)
    asker.close()
    become(asked, files)
    asm.cli.supervise()


if __name__ == "__main__":
    main()

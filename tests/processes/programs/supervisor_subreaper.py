"""The same program as a subreaper, to which the kernel gives orphans, as it does to PID 1 of a container."""

import ctypes

import supervisor_tree

if __name__ == "__main__":
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
    supervisor_tree.main()

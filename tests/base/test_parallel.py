"""folio/base/parallel.py: workers end with the process that started them, and a system without them is no obstacle."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent import futures
from functools import partial
from operator import add  # a worker has no test module to import for it

import pytest

from conftest import ROOT, run_python
from folio.base import parallel
from folio.base.errors import FolioError

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

# A parent whose workers write their process ids into the folder sys.argv[1], and never run out of work.
PARENT = """if True:
    import os, sys, time
    from itertools import repeat
    from folio.base.parallel import in_order

    def say_who(folder):
        with open(os.path.join(folder, str(os.getpid())), "w"):
            pass
        time.sleep(0.01)

    if __name__ == "__main__":
        for _ in in_order(say_who, repeat(sys.argv[1]), 2):
            pass
"""


def is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    try:                        # a process whose exit code nobody has read is a zombie
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not os.path.exists("/proc/self/stat")


def started(script, *words):
    """Start a script as the leader of a process group, which Ctrl-C can be sent to."""
    return subprocess.Popen([sys.executable, script, *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True)


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def parent(tmp_path):
    """Yield a process that has two busy workers, and their process ids."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    folder = tmp_path / "workers"
    folder.mkdir()
    process = started(script, folder)
    until(lambda: len(os.listdir(folder)) == 2)
    workers = [int(name) for name in os.listdir(folder)]
    yield process, workers
    for each in (process.pid, *workers):
        if is_running(each):
            os.kill(each, signal.SIGKILL)
    process.communicate()


@posix
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_workers_end_when_the_process_that_started_them_is_killed(parent, name):
    process, workers = parent
    assert all(map(is_running, workers))
    process.send_signal(getattr(signal, name))
    assert process.wait(30) == -getattr(signal, name)
    until(lambda: not any(map(is_running, workers)))


@posix
def test_a_worker_hears_no_ctrl_c_from_its_first_moment_on(tmp_path):
    """Send SIGINT to a worker alone, as early as it exists. (A terminal sends it to the parent as well.)"""
    script = tmp_path / "parent.py"
    script.write_text("""if True:
    import os, signal, sys, threading, time
    from multiprocessing import active_children
    from folio.base.parallel import in_order
    if __name__ == "__main__":
        def interrupt():
            met = set()
            while len(met) < 2:
                for child in active_children():
                    met.add(child.pid)
                    os.kill(child.pid, signal.SIGINT)
            while True:
                for process_id in met:
                    try:
                        os.kill(process_id, signal.SIGINT)
                    except ProcessLookupError:
                        pass
                time.sleep(0.01)
        threading.Thread(target=interrupt, daemon=True).start()
        print(list(in_order(str, range(6), 2)))
    """)
    done = run_python(script, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr, done.returncode) == (f"{list(map(str, range(6)))}\n", "", 0)


@posix
def test_a_worker_that_is_killed_is_one_sentence():
    pieces = iter(range(1000))
    results = parallel.in_order(partial(add, 1), pieces, 2)
    next(results)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(FolioError, match="ended from outside, probably because memory ran out.*run this again"):
        list(results)
    until(lambda: not multiprocessing.active_children())


def test_an_error_in_another_process_is_the_error_here():
    with pytest.raises(ValueError, match="invalid literal"):
        list(parallel.in_order(int, ["1", "2", "x", "4"], 2))
    assert list(parallel.in_order(int, map(str, range(50)), 2)) == list(range(50))


def test_set_up_is_done_once_in_each_process_and_belongs_to_its_own_work():
    for processes in (1, 2):
        tens, hundreds = (parallel.in_order(add, range(9), processes, int, base) for base in ("10", "100"))
        assert list(zip(tens, hundreds)) == [(10 + number, 100 + number) for number in range(9)]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), OSError(30, "Read-only file system"),
                                   ImportError("no functioning sem_open"), NotImplementedError("too few semaphores")])
def test_where_the_system_has_no_means_for_several_processes_one_does_it(monkeypatch, error):
    def refuse(*arguments, **named):
        raise error
    monkeypatch.setattr(futures.process, "_SafeQueue", refuse)           # what makes semaphores
    assert list(parallel.in_order(add, range(5), 2, int, "10")) == [10, 11, 12, 13, 14]


# --- How many ---

@pytest.mark.parametrize("files, membership, expected", [
    ({"cpu.max": "150000 100000"}, "0::/", 2),
    ({"cpu.max": "50000 100000"}, "0::/", 1),
    ({"cpu.max": "max 100000"}, "0::/", math.inf),
    ({}, "0::/", math.inf),
    ({"a/cpu.max": "max 100000", "a/b/cpu.max": "400000 100000"}, "0::/a/b", 4),
    ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, "0::/a/b", 3),       # the outer allows less
    ({"cpu.max": "200000 100000"}, "0::/docker/0123", 2),          # a path of the machine, seen from a container
    ({"cpu.max": "nonsense"}, "0::/", math.inf),
    ({"cpu.max": "100000 0"}, "0::/", math.inf),
    ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, "4:memory:/\n3:cpu,cpuacct:/", 3),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/", math.inf),
    ({"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}, "3:cpuacct,cpu:/a\n0::/", 1),
    ({"cpu.max": "100000 100000"}, "2:cpuset:/", math.inf),
])
def test_the_cores_of_a_container_are_counted(tmp_path, files, membership, expected):
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    (tmp_path / "membership").write_text(membership + "\n")
    assert parallel.cgroup_cores(tmp_path / "membership", tmp_path / "cgroup") == expected


def test_without_control_groups_there_is_no_limit(tmp_path, monkeypatch):
    assert parallel.cgroup_cores(tmp_path / "none", tmp_path) == math.inf
    assert parallel.cores() >= 1
    monkeypatch.setattr(parallel, "cgroup_cores", lambda: 1)
    assert parallel.cores() == 1


# --- init.py itself ---

INIT = """if True:
    import runpy, sys, threading, time
    from multiprocessing import active_children
    from folio.data import encoding
    encoding.cores = lambda: 2

    def tell():
        while len(active_children()) < 2:
            time.sleep(0.01)
        print(*(child.pid for child in active_children()), flush=True)

    if __name__ == "__main__":
        threading.Thread(target=tell, daemon=True).start()
        folder = sys.argv[1]
        sys.argv = ["init.py", "--vocab-size", "300", "--home", folder]
        runpy.run_path("init.py", run_name="__main__")
"""


@pytest.fixture
def busy_init(home, plays, tmp_path):
    """Yield a home, a process of init.py busy with a large text, and the process ids of its two workers."""
    project = home(plays * (20_000_000 // len(plays)))
    script = tmp_path / "start.py"
    script.write_text(INIT)
    process = started(script, project.folder)
    workers = list(map(int, process.stdout.readline().split()))
    yield project, process, workers
    for each in (process.pid, *workers):
        if is_running(each):
            os.kill(each, signal.SIGKILL)
    process.communicate()


@posix
def test_an_init_that_is_killed_leaves_no_process(busy_init):
    _, process, workers = busy_init
    assert len(workers) == 2 and all(map(is_running, workers))
    process.kill()
    process.wait(30)
    until(lambda: not any(map(is_running, workers)))


@posix
def test_an_init_whose_worker_is_killed_says_one_sentence_and_leaves_nothing(busy_init):
    project, process, workers = busy_init
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and said.count("\n") == 1
    assert said.startswith("One of the processes that this work is spread over was ended from outside"), said
    until(lambda: not any(map(is_running, workers)))
    assert [path.name for path in project.folder.rglob("*") if path.is_file()] == ["input.txt"]


@posix
def test_ctrl_c_for_all_processes_of_init_is_one_sentence(busy_init):
    _, process, workers = busy_init
    os.killpg(process.pid, signal.SIGINT)               # what a terminal does
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "Stopped. Nothing half-written was left behind.\n")
    until(lambda: not any(map(is_running, workers)))

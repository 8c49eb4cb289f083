"""The machine, and the processes that the comparison starts. Other processes are never stopped."""

import os
import platform
import pwd
import resource
import signal
import socket
import subprocess
import time

from parse import Failure, quantile

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS_MAX = 30


class Processes:
    def __init__(self):
        self.running = []

    def start(self, command, **options):
        """Starts a process in a new session, so that Ctrl-C only reaches this program, which stops all in order."""
        process = subprocess.Popen(list(map(str, command)), start_new_session=True, **options)
        self.running.append(process)
        return process

    def run(self, command, seconds_max, **options):
        """Runs a client until it exits; returns its stdout."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        try:
            output, errors = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"still running after {seconds_max} s: {shown(command)}") from error
        finally:
            self.stop(process)
        if process.returncode:
            raise Failure(f"{shown(command)}\nexited with status {process.returncode}:\n{(output + errors)[-2000:]}")
        return output

    def stop(self, process, number=signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
        if process in self.running:
            self.running.remove(process)

    def stop_all(self):
        for process in reversed(list(self.running)):
            self.stop(process, signal.SIGINT)


def shown(command):
    text = " ".join(map(str, command))
    return text if len(text) < 400 else text[:400] + " …"


def cpu_seconds(pid):
    """CPU time of a server and its children, including those that have exited."""
    ticks = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(name) == pid:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == pid:
            ticks += sum(map(int, fields[11:13]))
    return ticks / TICKS_A_SECOND


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise Failure(f"/proc/{pid}/status has no VmRSS")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(ready, process, log, seconds_max=30):
    """Waits until a server that was just started is ready."""
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failure(f"a server exited during startup; end of {log}:\n{log.read_text()[-2000:]}")
        if ready():
            return
        time.sleep(0.05)
    raise Failure(f"a server was not ready after {seconds_max} s; end of {log}:\n{log.read_text()[-2000:]}")


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def user_options(name):
    """Options that run a program as user `name`, for one that refuses to run as root; none unless this runs as root."""
    if os.geteuid():
        return {}
    user = pwd.getpwnam(name)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def give_to(folder, user):
    os.chown(folder, user["user"], user["group"])


def cores():
    return len(os.sched_getaffinity(0))


def raise_file_limit():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def file_system(folder):
    path, found = os.path.realpath(folder), ("", "?", "?")
    with open("/proc/mounts") as mounts:
        for device, at, kind, *_ in map(str.split, mounts):
            inside = path == at or path.startswith(at.rstrip("/") + "/")
            if inside and len(at) >= len(found[0]):
                found = (at, kind, device)
    return found[1:]


def sync_cost(folder, seconds=1.0):
    """Duration of a small durable write, in ms: 4 KiB appended to a file, then fdatasync."""
    took, path = [], os.path.join(folder, "sync")
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = time.perf_counter()
            os.write(file, bytes(4096))
            os.fdatasync(file)
            took.append((time.perf_counter() - before) * 1e3)
    finally:
        os.close(file)
        os.unlink(path)
    took.sort()
    return {"count": len(took), "p50_ms": quantile(took, 0.5), "p99_ms": quantile(took, 0.99)}


def describe(folder):
    cpu = memory = "?"
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as info:
        memory = round(int(info.readline().split()[1]) / 1024**2, 1)
    kind, device = file_system(folder)
    return {
        "cores": cores(),
        "cpu": cpu,
        "memory_gib": memory,
        "kernel": platform.release(),
        "file_system": kind,
        "device": device,
        "load_before": os.getloadavg()[0],
        "fdatasync": sync_cost(folder),
    }

"""A running gateway as the scripts of this folder see it: its process, its packet threads, its counters. Asks the
daemon through its own command line, inside its own network namespace, so that nothing but its process ID has to be
known."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

# Exit codes, as `hawser` has them where it has them.
FAILED, USAGE, NO_GATEWAY, NO_TOOL = 1, 2, 3, 69


def die(code, text):
    print(f"{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)
    sys.exit(code)


def parser(description):
    """The options that every script has."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pid", type=int, help="process ID of the gateway")
    p.add_argument("--home", help="its home folder; without --pid and --home the only running gateway is taken")
    p.add_argument("--seconds", type=float, default=5, help="how long to look (5)")
    return p


def tool(name, how):
    """Path of a program that is needed; if it is missing, says how to get it and ends."""
    path = shutil.which(name)
    if not path:
        die(NO_TOOL, f"{name} is missing. {how}")
    return path


def perf():
    return tool(
        "perf",
        "Debian: apt-get install linux-perf; Ubuntu: apt-get install linux-tools-$(uname -r); Fedora: dnf install perf",
    )


def has_pmu():
    """Whether this machine counts cycles (a virtual machine often does not)."""
    out = subprocess.run([perf(), "stat", "-x,", "-e", "cycles", "true"], capture_output=True, text=True)
    return out.returncode == 0 and "not supported" not in out.stderr and "not counted" not in out.stderr


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def words_of(pid):
    try:
        return read(f"/proc/{pid}/cmdline").split("\0")[:-1]
    except OSError:
        return []


def running():
    """Process IDs of all `hawser up` on this host."""
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return [p for p in pids if os.path.basename((words_of(p) or [""])[0]) == "hawser" and "up" in words_of(p)[1:]]


class Gateway:
    """One running gateway."""

    def __init__(self, pid):
        self.pid = pid

    @staticmethod
    def find(args):
        """The one that --pid or --home names, or the only one there is."""
        if args.pid:
            if "up" not in words_of(args.pid):
                die(NO_GATEWAY, f"process {args.pid} is no running gateway")
            return Gateway(args.pid)
        found = [Gateway(pid) for pid in running()]
        if args.home:
            found = [g for g in found if os.path.realpath(g.home()) == os.path.realpath(args.home)]
        if not found:
            die(NO_GATEWAY, "no running gateway found; start one with `hawser up`, or try perf/lab")
        if len(found) > 1:
            die(
                USAGE,
                "several gateways run; name one:\n" + "\n".join(f"  --pid {g.pid}   home {g.home()}" for g in found),
            )
        return found[0]

    def home(self):
        """Its home folder, found as the daemon finds it."""
        words = words_of(self.pid)
        home = "/var/lib/hawser"
        try:
            environment = dict(line.partition("=")[::2] for line in read(f"/proc/{self.pid}/environ").split("\0"))
            home = environment.get("HAWSER_HOME", home)
            cwd = os.readlink(f"/proc/{self.pid}/cwd")
        except PermissionError:
            die(FAILED, f"process {self.pid} is not ours to look at; run this as root")
        except FileNotFoundError:
            die(NO_GATEWAY, f"process {self.pid} is gone")
        for at, word in enumerate(words):
            if word == "--home" and at + 1 < len(words):
                home = words[at + 1]
            elif word.startswith("--home="):
                home = word[len("--home=") :]
        return os.path.join(cwd, home)

    def status(self, patient=False):
        """What `hawser status --json` says; nothing if it does not answer and we can wait."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"/proc/{self.pid}/exe"]
        out = subprocess.run([*command, "--home", self.home(), "--json", "status"], capture_output=True, text=True)
        if out.returncode and patient:
            return None
        if out.returncode:
            die(FAILED, f"the gateway does not answer: {out.stderr.strip()}")
        return json.loads(out.stdout)

    def threads(self):
        """Thread IDs of its shards, in their order."""
        found = []
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            kind, _, number = read(f"/proc/{self.pid}/task/{tid}/comm").strip().partition("-")
            if kind == "shard" and number.isdigit():
                found.append((int(number), int(tid)))
        return [tid for _, tid in sorted(found)]

    def cpu_ns(self, tid):
        """Nanoseconds a thread ran, and nanoseconds it waited for a core."""
        ran, waited = read(f"/proc/{self.pid}/task/{tid}/schedstat").split()[:2]
        return int(ran), int(waited)

    def sample(self):
        """Everything that is compared over an interval: the time, and per shard the counters and the CPU time."""
        counters = self.status()["counters"]
        cpu = [self.cpu_ns(tid) for tid in self.threads()]
        return time.monotonic(), counters["perShard"], cpu

    def over(self, seconds, meanwhile=None):
        """Counters and CPU of each shard over an interval: (seconds it took, [counter changes], [(ran, waited) ns])."""
        start, counted, cpu = self.sample()
        if meanwhile:
            meanwhile()
        else:
            time.sleep(seconds)
        end, counted_then, cpu_then = self.sample()
        changes = [change(old, new) for old, new in zip(counted, counted_then)]
        return end - start, changes, [tuple(b - a for a, b in zip(x, y)) for x, y in zip(cpu, cpu_then)]


def change(old, new):
    """Difference of two counter objects; a counter that is missing is zero."""
    if isinstance(new, dict):
        return {key: change(old.get(key, {} if isinstance(value, dict) else 0), value) for key, value in new.items()}
    return new - old


def table(head, rows):
    """Aligned columns: names to the left, numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(str(line[at])) for line in lines) for at in range(len(head))]
    for line in lines:
        cells = [str(cell).rjust(width) for cell, width in zip(line, widths)]
        print("  ".join([str(line[0]).ljust(widths[0]), *cells[1:]]).rstrip())


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def ratio(part, whole):
    return part / whole if whole else None

"""A client of the shim's fork server: it runs programs in forks of an interpreter
that has their modules. That is the bound of what a warm image can gain.

    forkserver.py [-n RUNS] SCRIPT [ARGS...]

measures a python script, plain and so, and prints the medians.
"""
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def write_shim(path, config):
    with open(path, "w") as out, open(os.path.join(HERE, "shim.py")) as text:
        out.write("CONFIG = " + json.dumps(config) + "\n" + text.read())


def train(interp, words):
    """Runs INTERP [OPTS] WORDS and returns the names of what it has imported."""
    with tempfile.TemporaryDirectory() as directory:
        shim, report = os.path.join(directory, "shim.py"), os.path.join(directory, "report")
        write_shim(shim, {"mode": "train", "kind": "script", "prefix": len(interp), "argv": interp + words, "report": report})
        subprocess.run(interp + [shim], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(report) as names:
            return names.read().split()


class Server:
    """INTERP (with its options) as a fork server; config is the shim's CONFIG."""

    def __init__(self, interp, config, env=None):
        self.directory = tempfile.TemporaryDirectory()
        shim = os.path.join(self.directory.name, "shim.py")
        self.report = os.path.join(self.directory.name, "report")
        write_shim(shim, dict({"mode": "template", "point": "forkserver", "kind": "interpreter", "prefix": len(interp),
                               "program": interp[0], "report": self.report}, **config))
        self.process = subprocess.Popen(interp + [shim], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            raise OSError("the fork server of %s ended" % interp[0])

    def run(self, argv, env=None, descriptors=(0, 1, 2), ignored=0, flags=0):
        """Runs argv and returns its wait status."""
        env = os.environb if env is None else env
        mask = os.umask(0o22)
        os.umask(mask)
        answer, there = os.pipe()
        fields = [os.getpid(), *descriptors, there, mask, ignored, flags, os.getcwd(), len(argv), *argv]
        data = b"".join(os.fsencode(str(f) if type(f) is int else f) + b"\0" for f in fields)
        data += b"".join(os.fsencode(k) + b"=" + os.fsencode(v) + b"\0" for k, v in env.items())
        self.process.stdin.write(b"%08d" % len(data) + data)
        self.process.stdin.flush()
        status = int(os.read(answer, 20))
        os.close(answer)
        os.close(there)
        return status

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.directory.cleanup()


def interpreter(script):
    """The words that the kernel puts before a script."""
    with open(script, "rb") as file:
        line = file.readline()
    if not line.startswith(b"#!"):
        return [sys.executable]
    return os.fsdecode(line[2:]).split(None, 1) if b" " in line[2:].strip() else [os.fsdecode(line[2:].strip())]


def main(arguments):
    runs = 15
    if arguments[0] == "-n":
        runs, arguments = int(arguments[1]), arguments[2:]
    script, words = os.path.realpath(arguments[0]), arguments[1:]
    interp = [w.strip() for w in interpreter(script)]
    imports = train(interp, [script] + words)
    server = Server(interp, {"kind": "script", "script": script, "imports": imports})
    nothing = os.open("/dev/null", os.O_RDWR)
    plain, forked = [], []
    for run in range(runs):
        start = time.perf_counter()
        status = subprocess.run(interp + [script] + words, stdin=nothing, stdout=nothing, stderr=nothing).returncode
        middle = time.perf_counter()
        other = os.waitstatus_to_exitcode(server.run(interp + [script] + words, descriptors=(nothing,) * 3, flags=3))
        forked.append(time.perf_counter() - middle)
        plain.append(middle - start)
        if status != other:
            print("%s ends with status %d, and in a fork with %d" % (script, status, other))
            return 1
    server.close()
    bound = statistics.median(forked) / statistics.median(plain)
    print("%s: %d modules, plain %.1f ms, forked %.1f ms, bound %.2f" % (
        shlex.join([os.path.basename(script)] + words), len(imports), statistics.median(plain) * 1e3,
        statistics.median(forked) * 1e3, bound))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

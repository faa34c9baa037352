#!/usr/bin/python3
"""The script that scripts/soak starts: it does what scripts do, and reports what it saw."""
import argparse
import asyncio
import atexit
import email
import hashlib
import json
import logging
import os
import random
import re
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.request
import uuid

try:
    import numpy
except ImportError:
    numpy = None


def child(kind, data):
    """Runs another program and returns what it says."""
    if kind == "cat":
        return hashlib.sha256(subprocess.run(["cat"], input=data, stdout=subprocess.PIPE, check=True).stdout).hexdigest()
    if kind == "sh":
        return text("sh", "-c", 'printf "%s %s %s" "$PPID" "$(pwd -P)" "$(umask)"')
    if kind == "python":
        return text(sys.executable, "-c", "import os, sys; print(os.getppid(), os.getcwd(), sys.argv[1])", "word")
    if kind == "pipeline":
        first = subprocess.Popen(["printf", "c\\nb\\na\\n"], stdout=subprocess.PIPE)
        second = subprocess.run(["sort"], stdin=first.stdout, stdout=subprocess.PIPE, check=True)
        first.stdout.close()
        return "%d %s" % (first.wait(), second.stdout.decode().split())
    if kind == "fork":
        return forked()
    return ""


def text(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().rstrip("\n")


def forked():
    """A child that ends with a status of its own, after it has said who its parent is."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(there, str(os.getppid()).encode())
        os._exit(5)
    os.close(there)
    said = os.read(here, 100).decode()
    os.close(here)
    return "%s %d" % (said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def unique():
    """What no two starts may have in common."""
    found = [repr(random.random()), str(uuid.uuid4()), secrets.token_hex(8), os.path.basename(tempfile.mktemp())]
    if numpy is not None:
        found.append(repr(float(numpy.random.random())))
    return found


def is_warm():
    with open("/proc/self/maps") as maps:
        return re.search(r"/pages-\d+\.img$", maps.read(), re.MULTILINE) is not None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="version", version="soak")
    parser.add_argument("--create", required=True)
    parser.add_argument("--child", default="")
    parser.add_argument("--descriptors", type=int, default=0)
    parser.add_argument("--end", default="0")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    data = sys.stdin.buffer.read()
    with open(args.create, "w"):
        mode = os.stat(args.create).st_mode & 0o777
    with open("name") as file:
        name = file.read()
    seen = {
        "argv": [os.fsencode(word).hex() for word in args.words],
        "pid": os.getpid(),
        "parent": os.getppid(),
        "directory": os.getcwd(),
        "name": name,
        "mode": mode,
        "stdin": hashlib.sha256(data).hexdigest(),
        "environment": os.environ["SOAK"],
        "extra": [os.read(3 + i, 100).decode() for i in range(args.descriptors)],
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        "child": child(args.child, data),
        "unique": unique(),
        "warm": is_warm(),
    }
    print(json.dumps(seen))
    end(args.end)


def end(how):
    if how == "raise":
        raise RuntimeError("soak")
    if how == "kill":
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    atexit.register(print, "the end")
    sys.exit(int(how))


if __name__ == "__main__":
    main()

"""A client of the shim's fork server: it runs programs in forks of an interpreter
that has its modules, which is the bound of what a warm image can gain."""
import json
import os
import subprocess
import tempfile


class Server:
    """INTERP (with its options) as a fork server; config is the shim's CONFIG."""

    def __init__(self, interp, config, env=None):
        here = os.path.dirname(os.path.abspath(__file__))
        self.directory = tempfile.TemporaryDirectory()
        shim = os.path.join(self.directory.name, "shim.py")
        self.report = os.path.join(self.directory.name, "report")
        config = dict({"mode": "template", "prefix": 1, "program": interp[0], "report": self.report}, **config)
        with open(shim, "w") as out, open(os.path.join(here, "shim.py")) as text:
            out.write("CONFIG = " + json.dumps(dict(config, point="forkserver")) + "\n" + text.read())
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

# What is finalised at the end, and in which order: final.py WHAT.
import sys
what = sys.argv[1]


class Loud:
    def __init__(self, name):
        self.name = name

    def __del__(self):
        print("del", self.name, sys.meta_path is None, sys.modules.get("sys"), sys.argv)


if what == "zip":
    import zipfile
    archive = zipfile.ZipFile("a.zip", "w")
    archive.writestr(zipfile.ZipInfo("name"), "content")
elif what == "gzip":
    import gzip
    out = gzip.GzipFile("a.gz", "w", mtime=0)
    out.write(b"content")
elif what == "sqlite":
    import sqlite3
    db = sqlite3.connect("a.db")
    db.execute("create table t (a)")
    db.execute("insert into t values (1)")
    db.commit()
    db.execute("insert into t values (2)")
elif what == "file":
    out = open("a.txt", "w")
    out.write("content")
elif what == "finalize":
    import weakref
    one = Loud("object")
    weakref.finalize(one, print, "finalized")
    other = Loud("kept")
    weakref.finalize(other, print, "not at exit").atexit = False
elif what == "generator":
    def generator():
        try:
            yield 1
        finally:
            print("finally")
    g = generator()
    next(g)
    cycle = [generator()]
    next(cycle[0])
    cycle.append(cycle)
elif what == "del":
    a, _b, __c, D = Loud("a"), Loud("_b"), Loud("__c"), Loud("D")

    def f(x=Loud("default")):
        return a
    ring = Loud("ring")
    ring.self = ring
elif what == "module":
    open("loud.py", "w").write("from __main__ import Loud\na = Loud('module a')\n_b = Loud('module _b')\n"
                               "def f(): return a\n")
    open("other.py", "w").write("import loud\nfrom __main__ import Loud\nkept = Loud('other'), loud\ndef g(): return kept\n")
    import loud
    import other
elif what == "atexit":
    import atexit
    atexit.register(print, "first registered")

    @atexit.register
    def fails():
        raise ValueError("in an exit function")
    atexit.register(lambda: print("before", sys.modules["__main__"].what))
    atexit.register(lambda: sys.exit(3))
elif what == "atexitorder":
    import atexit
    atexit.register(lambda: print("handlers", len(logging.root.handlers), [h.stream.closed for h in logging.root.handlers]))
    import logging
    logging.basicConfig(filename="a.log")
    logging.warning("a line")
elif what == "handler":
    import logging
    logging.basicConfig(filename="a.log", level=1)
    logging.info("a line")
    logging.root.handlers[0].owner = Loud("held by logging")
elif what == "heldby":
    import json
    import re
    json.held = Loud("held by json")
    re.held = open("a.txt", "w")
    re.held.write("content")
elif what == "onsys":
    sys.held = Loud("held by sys")
    sys.stdout = open("a.txt", "w")
    print("to the file")
elif what == "builtins":
    import builtins
    builtins.held = Loud("held by builtins")
    builtins._ = Loud("_")
    builtins.len = lambda x: 7
elif what == "wrapped":
    import io
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, "utf-16")
    print("wrapped")
elif what == "detached":
    out = sys.stdout.detach()
    out.write(b"raw\n")
elif what == "tempfile":
    import os
    import tempfile
    d = tempfile.TemporaryDirectory(dir=".", prefix="t")
    f = tempfile.NamedTemporaryFile(dir=".")
    print(len(os.listdir(".")))
elif what == "traceback":
    def f():
        local = Loud("local of a frame")
        1 / 0
    f()
elif what == "local":
    import threading
    store = threading.local()
    store.value = Loud("of a thread")
elif what == "asyncio":
    import asyncio

    async def forever():
        try:
            await asyncio.sleep(1000)
        finally:
            print("cancelled")
    loop = asyncio.new_event_loop()
    task = loop.create_task(forever())
    loop.run_until_complete(asyncio.sleep(0))
elif what == "socket":
    import socket
    s = socket.socketpair()
elif what == "subprocess":
    import subprocess
    p = subprocess.Popen(["/bin/true"])
elif what == "extension":
    import _ctypes_test as extension
    print(extension.__name__)
elif what == "meta":
    class Meta(type):
        def __del__(cls):
            print("class gone", cls.__name__)

    class Gone(metaclass=Meta):
        pass
elif what == "stdio":
    import ctypes
    ctypes.CDLL(None).printf(b"by C\n")

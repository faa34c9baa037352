# How a program ends: exits.py HOW.
import os
import sys
how = sys.argv[1]
print("before")


def fail():
    raise ValueError("a reason")


if how == "normal":
    pass
elif how == "none":
    sys.exit()
elif how == "seven":
    sys.exit(7)
elif how == "negative":
    sys.exit(-1)
elif how == "big":
    sys.exit(1 << 70)
elif how == "text":
    sys.exit("a text")
elif how == "float":
    sys.exit(1.5)
elif how == "bool":
    sys.exit(True)
elif how == "nostderr":
    sys.stderr = None
    sys.exit("a text")
elif how == "exception":
    fail()
elif how == "chained":
    try:
        fail()
    except ValueError:
        {}["key"]
elif how == "cause":
    try:
        fail()
    except ValueError as e:
        raise KeyError(1) from e
elif how == "interrupt":
    raise KeyboardInterrupt
elif how == "interrupted":
    os.kill(os.getpid(), 2)
elif how == "subclass":
    class Interrupt(KeyboardInterrupt):
        pass
    raise Interrupt
elif how == "handled":
    import signal
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(3))
    os.kill(os.getpid(), signal.SIGTERM)
elif how == "term":
    os.kill(os.getpid(), 15)
elif how == "abort":
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()
elif how == "_exit":
    os._exit(5)
elif how == "hook":
    sys.excepthook = lambda *a: print(a[0], a[1], sys.exc_info(), sys._getframe().f_back)
    fail()
elif how == "hookfails":
    def hook(*a):
        raise KeyError("in the hook")
    sys.excepthook = hook
    fail()
elif how == "hookexits":
    sys.excepthook = lambda *a: sys.exit(9)
    fail()
elif how == "nohook":
    del sys.excepthook
    fail()
elif how == "noname":
    def fail():
        raise type("Odd\udc80", (Exception,), {})("odd \udc80")
    fail()
elif how == "recursion":
    def deep():
        deep()
    deep()
elif how == "syntax":
    exec("a b")
elif how == "nomodule":
    import nosuchmodule
elif how == "noname":
    from json import nosuchname
elif how == "badmodule":
    open("badmodule.py", "w").write("1/0\n")
    import badmodule
elif how == "badsyntax":
    open("badmodule.py", "w").write("def\n")
    import badmodule
elif how == "closedout":
    sys.stdout.close()
elif how == "full":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    print("lost")
elif how == "fullfails":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    print("lost")
    fail()
elif how == "pipe":
    r, w = os.pipe()
    os.dup2(w, 1)
    os.close(r)
    os.close(w)
    print("lost")
elif how == "pipeexit":
    r, w = os.pipe()
    os.dup2(w, 1)
    os.close(r)
    os.close(w)
    print("lost")
    sys.exit(4)
elif how == "thread":
    import threading
    import time

    def later():
        time.sleep(0.1)
        print("from a thread")
        sys.exit(8)
    threading.Thread(target=later).start()
    print("main ends")
elif how == "threadfails":
    import threading
    threading.Thread(target=fail).start()
elif how == "daemon":
    import threading
    import time

    def beat():
        while True:
            time.sleep(0.001)
    threading.Thread(target=beat, daemon=True).start()
elif how == "pool":
    from concurrent.futures import ThreadPoolExecutor
    pool = ThreadPoolExecutor(2)
    pool.submit(print, "from a pool")
elif how == "forked":
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        print("child")
        sys.exit(6)
    print("parent", os.waitpid(pid, 0)[1])
elif how == "exec":
    sys.stdout.flush()
    os.execv("/bin/echo", ["echo", "executed"])
elif how == "execself":
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, __file__, "seven"])

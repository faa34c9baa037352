# What a program sees of its start.
import os
import sys
print(list(globals()))
print({k: v for k, v in globals().items() if k not in ("os", "sys")})
print(sys.argv, sys.path, getattr(sys, "orig_argv", None), sys.flags)
print(list(sys.modules), sys.modules["__main__"].__dict__ is globals())
print([type(f) for f in sys.meta_path], sys.path_hooks, sys.executable, sys.prefix)
print(sys.excepthook, sys.displayhook, sys.getrecursionlimit(), sys.warnoptions)
print(sorted(k for k in sys.__dict__), sorted(__builtins__.__dict__))
print({k: v for k, v in sys.path_importer_cache.items() if k.endswith(".py")})


def deeper(n=1):
    global depth
    depth = n
    deeper(n + 1)


try:
    deeper()
except RecursionError:
    print(depth)
try:
    sys._getframe(1)
except ValueError as e:
    print(e)
import traceback
traceback.print_stack()
import warnings
for level in 1, 2, 3:
    warnings.warn("level %d" % level, stacklevel=level)
import inspect
print(len(inspect.stack()))
import threading
print(threading.main_thread() is threading.current_thread(), threading.main_thread().native_id == os.getpid())
print(threading.main_thread().ident == threading.get_ident(), threading.active_count())

# How imports behave: imports.py WHAT.
import sys
what = sys.argv[1]
if what == "before":
    print("json" in sys.modules, "json" in dir(), hasattr(sys.modules.get("xml"), "etree"))
    import importlib.util
    print(importlib.util.find_spec("json"), "json" in sys.modules)
    import pkgutil
    print([m.name for m in pkgutil.iter_modules() if m.name.startswith("js")])
elif what == "shadow":
    import json
    print(json.__file__, json.what)
    import email.message
    import argparse
    print(argparse.__file__)
elif what == "shadowpart":
    import argparse
    import gettext
    print(gettext.mine)
elif what == "path":
    import os
    os.mkdir("sub")
    open("sub/decimal.py", "w").write("mine = 1\n")
    sys.path.insert(0, "sub")
    import decimal
    print(decimal.mine, "json" in sys.modules)
    import json
    print(json.decoder)
elif what == "pathremoved":
    kept = list(sys.path)
    del sys.path[1:]
    try:
        import json
        print("found")
    except ImportError as e:
        print(e)
    sys.path[:] = kept
    import json
    print(json)
elif what == "later":
    try:
        import made
    except ImportError as e:
        print(e, e.name)
    import importlib
    open("json.py", "w").write("mine = 2\n")
    importlib.invalidate_caches()
    import json
    print(json.mine)
elif what == "none":
    sys.modules["json.decoder"] = None
    try:
        import json
    except ImportError as e:
        print(e)
elif what == "replaced":
    sys.modules["json.scanner"] = sys
    import json
    print(json.scanner is sys)
elif what == "finder":
    class Finder:
        def find_spec(self, name, path=None, target=None):
            asked.add(name)
    asked = set()
    sys.meta_path.insert(0, Finder())
    import decimal
    print(sorted(asked))
elif what == "foreign":
    class Loader:
        def create_module(self, spec):
            return None

        def exec_module(self, module):
            print("loads", module.__name__)
            module.mine = True

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "gettext":
                return type(sys.__spec__)(name, Loader())
    sys.meta_path.insert(0, Finder())
    try:
        import argparse
    except ImportError as e:
        print(e)
elif what == "hook":
    import builtins
    real = builtins.__import__

    def tracing(name, *rest):
        print("import", name)
        return real(name, *rest)
    builtins.__import__ = tracing
    import json
elif what == "lazy":
    import importlib.util
    spec = importlib.util.find_spec("json")
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["json"] = module
    loader.exec_module(module)
    print(module.dumps([1]), sys.modules["json"] is module)
elif what == "pickle":
    import decimal
    import pickle
    data = pickle.dumps((decimal.Decimal, decimal.getcontext))
    del sys.modules["decimal"]
    print(pickle.loads(data)[0] is decimal.Decimal)
elif what == "reload":
    import importlib
    import json
    old = json.JSONEncoder
    json.extra = 1
    print(importlib.reload(json) is json, json.JSONEncoder is old, json.extra, json.__spec__.loader is json.__loader__)
elif what == "warnings":
    print(len(sys.modules), __import__("_warnings").filters)
    import warnings
    print(warnings.filters)
elif what == "star":
    from json import *
    print(sorted(k for k in globals() if not k.startswith("__")))
elif what == "resources":
    import importlib.resources
    import email
    print(email.__path__ == list(email.__spec__.submodule_search_locations))
elif what == "threads":
    import threading

    def one():
        import decimal
        found.append(decimal)
    found = []
    threads = [threading.Thread(target=one) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(len(found), len(set(map(id, found))))

"""The python side of a warm image: it imports modules, waits at the point, and
then runs a user's program as the interpreter's own start would.

It is started as INTERP [OPTS] shim.py, with CONFIG (a dict) in front of this
text. It runs on CPython 3.9 to 3.13. Whatever it loads beyond a plain start is
not left in sys.modules. Where it repeats what CPython does, the comment names
CPython's file and function.
"""
import _frozen_importlib as bootstrap
import _frozen_importlib_external as external
import _imp
import _io
import _signal
import _warnings
import builtins
import marshal
import os
import posix
import sys
import time

BASE = dict(sys.modules)  # the modules of a plain start
VERSION = sys.version_info[:2]

import _ctypes
import atexit
import gc

POINT = 0x52455354  # prctl(2)'s operation that every kernel refuses
POINT_VERSION = 1
IMPORTING = 2  # in the version's place: which module is being imported, for who watches
EXPLAIN, STRICT = 1, 2
STRICT_STATUS = 125
MISSING = object()


# ---- Calling C ------------------------------------------------------------

class Long(_ctypes._SimpleCData):
    _type_ = "l"


class Int(_ctypes._SimpleCData):
    _type_ = "i"


class Pointer(_ctypes._SimpleCData):
    _type_ = "P"


class Text(_ctypes._SimpleCData):
    _type_ = "z"


class Object(_ctypes._SimpleCData):
    _type_ = "O"


class Start(_ctypes.Structure):  # struct residentctl_start
    _fields_ = [("stack", Long), ("ignored", Long), ("flags", Long)]


LIBRARY = _ctypes.dlopen(None, 0)
CDECL, PYTHONAPI = 1, 4


def function(name, result, *arguments):
    """A C function that keeps the GIL and whose Python error is raised."""
    class Function(_ctypes.CFuncPtr):
        _flags_ = CDECL | PYTHONAPI
        _restype_ = result
    found = Function(_ctypes.dlsym(LIBRARY, name))
    found.argtypes = arguments
    return found


fork = function("fork", Int)
mark = function("syscall", Long, Long, Long, Long, Text, Long, Long)
syscall = function("syscall", Long, Long, Long, Long, Pointer, Long, Long)
before_fork = function("PyOS_BeforeFork", None)
after_fork_child = function("PyOS_AfterFork_Child", None)
after_fork_parent = function("PyOS_AfterFork_Parent", None)
call_object = function("PyObject_CallObject", Object, Object, Object)
run_file = function("PyRun_FileExFlags", Object, Pointer, Text, Int, Object, Object, Int, Pointer)
run_string = function("PyRun_StringFlags", Object, Text, Int, Object, Object, Pointer)
thread_state = function("PyThreadState_Get", Pointer)
display = function("PyErr_Display", None, Object, Object, Object)
fdopen = function("fdopen", Pointer, Int, Text)
realpath = function("realpath", Text, Text, Pointer)
fflush = function("fflush", Int, Pointer)
FILE_INPUT = 257  # Py_file_input

# environ, and the stack that the kernel made for this process.
ENVIRON = Pointer.from_address(_ctypes.dlsym(LIBRARY, "environ"))
try:
    STACK = Pointer.from_address(_ctypes.dlsym(LIBRARY, "__libc_stack_end")).value
except OSError:  # not glibc
    STACK = None


def last_library():
    """The last entry of the link map (struct link_map, link.h), or None."""
    if STACK is None:
        return None
    entry = LIBRARY
    while True:
        following = Pointer.from_address(entry + 24).value
        if following is None:
            return Pointer.from_address(entry + 24)
        entry = following


# ---- The current frame ----------------------------------------------------

# Offsets in PyThreadState, and in _PyCFrame of 3.11 and 3.12
# (Include/cpython/pystate.h).
FRAME = {(3, 9): 24, (3, 10): 24, (3, 11): 56, (3, 12): 56, (3, 13): 72}.get(VERSION)
CURRENT = {(3, 11): 8, (3, 12): 0}.get(VERSION)
DEPTH = {(3, 9): (32, -1), (3, 10): (32, -1), (3, 11): (32, 1), (3, 12): (28, 1), (3, 13): (44, 1)}.get(VERSION)


def frame_word():
    """The word that holds the frame that is running."""
    address = thread_state() + FRAME
    if CURRENT is not None:
        address = Pointer.from_address(address).value + CURRENT
    return Pointer.from_address(address)


def frames_known():
    """Reports whether the word is where it is expected to be: a build of another
    kind has other offsets."""
    if FRAME is None or hasattr(sys, "gettotalrefcount"):
        return False
    frame = sys._getframe()
    wanted = id(frame)
    if VERSION >= (3, 11):  # PyFrameObject.f_frame
        wanted = Pointer.from_address(wanted + 24).value
    return frame_word().value == wanted


HIDE = frames_known()


def bare(called, *arguments):
    """Calls called as the interpreter itself calls: without a frame below it."""
    if not HIDE:
        return called(*arguments)
    depth, used = Int.from_address(thread_state() + DEPTH[0]), DEPTH[1] * FRAMES_BELOW
    word = frame_word()
    below = word.value
    depth.value += used
    word.value = None
    try:
        return called(*arguments)
    finally:
        word.value = below
        depth.value -= used


FRAMES_BELOW = 5 if VERSION < (3, 12) else 4  # of this file, as the interpreter counts its recursion


# ---- Preloading -----------------------------------------------------------

class Excluded(BaseException):
    """Ends the import of a module that is not to be in the image."""


IMPORTLIB = "<frozen importlib._bootstrap>"
READS = ("getcwd", "getcwdb", "getpid", "getppid", "uname", "cpu_count", "isatty", "sched_getaffinity", "getuid", "getlogin",
         "get_terminal_size", "umask", "urandom", "getloadavg")


class Arguments(list):
    """sys.argv while modules are preloaded. A copy of its end that is kept, as a
    default argument, is filled in at a start; what else is read refuses a module."""

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if type(key) is slice and key.stop is None and key.step is None and type(key.start) is int and key.start > 0:
            copies.append((self.recorder.stack[-1], found, key.start))
        else:
            self.recorder.refuse("it reads the program's arguments")
        return found

    def __iter__(self):
        self.recorder.refuse("it reads the program's arguments")
        return super().__iter__()

    def __len__(self):
        self.recorder.refuse("it reads the program's arguments")
        return super().__len__()

    def __contains__(self, item):
        self.recorder.refuse("it reads the program's arguments")
        return super().__contains__(item)


looked_up = []  # the terminal, by setupterm of _curses: its type, or None, and its descriptor
copies = []  # of sys.argv's end: the module, the list, where it begins
reads = {}  # module: what it asks of the process


class Recorder:
    """Records what each import brings in and changes while modules are preloaded."""

    LISTS = ("path", "meta_path", "path_hooks")
    NOT_COMPARED = LISTS + ("stdin", "stdout", "stderr", "argv")

    def __init__(self):
        self.stack = importing  # the modules that are being imported
        self.touched = {None: {}}  # what each import asks for, in order
        self.specs = {}
        self.events = {}
        self.refused = {}
        self.known = set(sys.modules)
        self.size = len(sys.modules)
        self.drawn = None  # the state of the random module's generator
        self.state = self.look()
        self.before = self.state

    def look(self):
        lists = {name: list(getattr(sys, name)) for name in self.LISTS}
        lists["filters"] = list(_warnings.filters)
        system = dict(sys.__dict__)
        for name in self.NOT_COMPARED:
            system.pop(name, None)
        signals = [_signal.getsignal(n) for n in range(1, 65)]
        return lists, system, dict(builtins.__dict__), dict(os.environ._data), sys.getrecursionlimit(), signals

    def planted(self):
        """Finds names that a module itself has put in sys.modules."""
        if len(sys.modules) == self.size:
            return
        self.size = len(sys.modules)
        for name in list(sys.modules):
            if name not in self.known:
                self.known.add(name)
                self.touch(name)

    def touch(self, name):
        self.planted()
        asked = self.touched.setdefault(self.stack[-1], {})
        end = name.find(".")
        while end >= 0:
            asked[name[:end]] = None
            end = name.find(".", end + 1)
        asked[name] = None

    def event(self, *what):
        self.events.setdefault(self.stack[-1], []).append(what)

    def checkpoint(self):
        """Puts changes since the last checkpoint down to the module that runs."""
        self.planted()
        state_of = names_of(sys.modules["random"]).get("getstate") if "random" in sys.modules else None
        if state_of is not None:
            last, self.drawn = self.drawn, state_of()
            if last not in (None, self.drawn):
                self.refuse("it draws random numbers")
        now, self.state, last = self.look(), None, self.state
        self.state = now
        if now == last:
            return
        for name, items in now[0].items():
            self.list_changed(name, last[0][name], items)
        for kind, old, new in (("sys", last[1], now[1]), ("builtins", last[2], now[2]), ("environ", last[3], now[3])):
            for name in old.keys() | new.keys():
                value = new.get(name, MISSING)
                if value is not old.get(name, MISSING) and value != old.get(name, MISSING):
                    self.event(kind, name, value)
        if now[4] != last[4]:
            self.event("recursion", None, now[4])
        if now[5] != last[5]:
            self.refuse("it sets signal handlers")

    def list_changed(self, name, old, new):
        if len(old) == len(new) and all(a is b for a, b in zip(old, new)):
            return
        more = len(new) - len(old)
        if more > 0 and all(a is b for a, b in zip(old, new[more:])):
            self.event("front", name, new[:more])
        elif more > 0 and all(a is b for a, b in zip(old, new)):
            self.event("back", name, new[len(old):])
        else:
            self.refuse("it changes " + name)

    def refuse(self, reason):
        if self.stack[-1] in RENEWED:
            return
        self.refused.setdefault(self.stack[-1], reason)

    # What is wrapped while modules are preloaded.

    def wrap(self):
        real_import, gcd_import, load_unlocked = builtins.__import__, bootstrap._gcd_import, bootstrap._load_unlocked

        def __import__(name, globals=None, locals=None, fromlist=(), level=0):
            absolute = name
            if level > 0:
                absolute = bootstrap._resolve_name(name, bootstrap._calc___package__(globals or {}), level)
            self.touch(absolute)
            module = real_import(name, globals, locals, fromlist, level)
            wanted = fromlist or ()
            if "*" in wanted:
                wanted = getattr(module, "__all__", ())
            for item in wanted:
                if type(item) is str and absolute + "." + item in sys.modules:
                    self.touch(absolute + "." + item)
            return module

        def _gcd_import(name, package=None, level=0):
            absolute = bootstrap._resolve_name(name, package, level) if level > 0 else name
            self.touch(absolute)
            return gcd_import(name, package, level)

        excluded = frozenset(CONFIG.get("exclude", ()))

        def _load_unlocked(spec):
            if spec.name in excluded:
                for name in self.stack[1:]:
                    self.refused.setdefault(name, "it imports " + spec.name)
                raise Excluded("it is left out")
            self.touch(spec.name)
            self.checkpoint()
            self.known.add(spec.name)
            self.stack.append(spec.name)
            self.touched[spec.name] = {}
            tell_importing(spec.name)
            try:
                module = load_unlocked(spec)
                self.specs[spec.name] = spec
                if spec.name == "_curses":
                    self.swap(module, "setupterm", self.setting_up(module.setupterm))
                    self.swap(module, "tigetnum", self.sizing(module.tigetnum))
                elif spec.name == "fcntl":
                    self.swap(module, "ioctl", self.asking(module.ioctl))
                elif spec.name == "termios":
                    self.swap(module, "tcgetattr", self.settings_of(module.tcgetattr))
                return module
            finally:
                self.checkpoint()
                self.stack.pop()
                tell_importing(self.stack[-1])

        def atexit_register(called, *args, **kwargs):
            self.event("atexit", called, (args, kwargs))
            return called

        for wrapper in (__import__, _gcd_import, _load_unlocked):
            wrapper.__code__ = wrapper.__code__.replace(co_filename=IMPORTLIB)  # warnings pass over it
        self.swaps = []
        self.swap(builtins, "__import__", __import__)
        self.swap(bootstrap, "_gcd_import", _gcd_import)
        self.swap(bootstrap, "_load_unlocked", _load_unlocked)
        self.swap(atexit, "register", atexit_register)
        self.swap(_warnings, "warn", self.warn)
        if "warnings" in sys.modules:
            sys.modules["warnings"].warn = _warnings.warn
        self.argv = Arguments(["", "-"])
        self.argv.recorder = self
        self.swap(sys, "argv", self.argv)
        for name in READS:
            self.swap(posix, name, self.reading(name, getattr(posix, name)))
            if hasattr(os, name):
                setattr(os, name, getattr(posix, name))
        self.before = self.state = self.look()

    def swap(self, where, name, wrapper):
        self.swaps.append((where, name, wrapper, getattr(where, name)))
        setattr(where, name, wrapper)

    def reading(self, name, called):
        def read(*arguments):
            reads.setdefault(self.stack[-1], {})[name] = None
            return called(*arguments)
        return read

    def setting_up(self, setupterm):
        """Notes that the terminal was looked up, which _curses is to repeat."""
        def set_up(term=None, fd=-1):
            tell_importing("_curses")
            try:
                setupterm(term, fd)
            finally:
                tell_importing(self.stack[-1])
            looked_up.append((term, fd if fd >= 0 else 1))
        return set_up

    def sizing(self, tigetnum):
        def number(name):
            if name in ("cols", "lines"):
                self.refuse("it asks for the size of the terminal")
            return tigetnum(name)
        return number

    def settings_of(self, tcgetattr):
        def settings(fd):
            found = tcgetattr(fd)
            self.refuse("it asks for the settings of the terminal")
            return found
        return settings

    def asking(self, ioctl):
        """Puts a question down to the module whose code asks it, if that one is renewed."""
        def ask(*arguments):
            name = sys._getframe(1).f_globals.get("__name__")
            if name not in RENEWED:
                return ioctl(*arguments)
            tell_importing(name)
            try:
                return ioctl(*arguments)
            finally:
                tell_importing(self.stack[-1])
        return ask

    def warn(self, message, category=None, stacklevel=1, source=None, **others):
        """Records a warning in the place of _warnings.warn (Python/_warnings.c,
        setup_context)."""
        frame = sys._getframe(1)
        for _ in range(stacklevel - 1):
            frame = frame and frame.f_back
            while frame and "importlib" in frame.f_code.co_filename and "_bootstrap" in frame.f_code.co_filename:
                frame = frame.f_back
        if isinstance(message, Warning):
            category = type(message)
        category = category or UserWarning
        place = None
        if frame is not None and frame.f_globals is not globals():
            names = frame.f_globals
            place = (frame.f_code.co_filename, frame.f_lineno, names.get("__name__") or "<string>",
                     names.setdefault("__warningregistry__", {}))
        own = place is not None and place[2] == self.stack[-1]
        self.event("warning", (message, category), place if own else (None, place))

    def unwrap(self):
        """Restores what was wrapped, also where a module has kept it."""
        swaps, self.swaps = self.swaps, None
        swap = {}
        for where, name, wrapper, original in swaps:
            setattr(where, name, original)
            swap[id(wrapper)] = original
        wrappers = [wrapper for where, name, wrapper, original in swaps]
        del where, name, wrapper, original
        for holder in gc.get_referrers(*wrappers):
            if holder is not wrappers and not any(holder is one for one in swaps):
                replace(holder, swap)

    def restore(self):
        """Undoes what imports changed outside of their modules."""
        lists, system, built, environ, limit, signals = self.before
        for name in self.LISTS:
            kept = system_lists[name]
            kept[:] = lists[name]
            setattr(sys, name, kept)
        set_filters(lists["filters"])
        for there, before in ((sys.__dict__, system), (builtins.__dict__, built)):
            for name in list(there):
                if name not in before and name not in self.NOT_COMPARED and name != "__import__":
                    del there[name]
            for name, value in before.items():
                if there.get(name, MISSING) is not value and name != "__import__":
                    there[name] = value
        os.environ._data.clear()
        os.environ._data.update(environ)
        sys.setrecursionlimit(limit)
        for n, handler in enumerate(signals, 1):
            if handler is not None and _signal.getsignal(n) != handler:
                _signal.signal(n, handler)


def replace(holder, swap):
    """Replaces what holder has of wrappers."""
    if type(holder) is dict:
        for name, value in list(holder.items()):
            if id(value) in swap and holder is not globals():
                holder[name] = swap[id(value)]
    elif type(holder) is list:
        holder[:] = [swap.get(id(value), value) for value in holder]
    elif type(holder) is tuple:
        changed = tuple(swap.get(id(value), value) for value in holder)
        for user in gc.get_referrers(holder):
            if getattr(user, "__defaults__", None) is holder:
                user.__defaults__ = changed
    elif hasattr(holder, "cell_contents") and holder.cell_contents is not None:
        holder.cell_contents = swap.get(id(holder.cell_contents), holder.cell_contents)
    else:
        for name, value in list(getattr(holder, "__dict__", {}).items()):  # of 3.13, without a dict of its own
            if id(value) in swap:
                setattr(holder, name, swap[id(value)])


def set_filters(items):
    _warnings.filters[:] = items
    mutated = getattr(_warnings, "_filters_mutated", None) or getattr(_warnings, "_filters_mutated_lock_held", None)
    if mutated is not None:
        mutated()


system_lists = {name: getattr(sys, name) for name in Recorder.LISTS}


class Reading(os._Environ):
    """os.environ while modules are preloaded: it records which names are read."""

    def __getitem__(self, key):
        names_read[key] = given.get(self.encodekey(key))
        return super().__getitem__(key)

    def __contains__(self, key):
        names_read[key] = given.get(self.encodekey(key))
        return super().__contains__(key)

    def __iter__(self):
        all_read.append(importing[-1])
        return super().__iter__()


given = {}  # the environment that the kernel passed on
names_read = {}
all_read = []  # the modules that read all names
importing = [None]
failed = {}  # name: reason

# The store: what is handed out when it is imported. Its names are strings of its
# own, which lie side by side, so that a start writes to few pages.
handed = {}  # name: module, handed out or not
left = {}  # the names that were not handed out yet
specs = {}  # name: spec
groups = {}  # name: what its import brings in, in order
attributes = {}  # name: its parent and its name there, if it was there and the parent's import does not put it there
effects = {}  # name: what its import changes elsewhere


def tell_importing(name):
    mark(157, POINT, IMPORTING, None if name is None else os.fsencode(name), 0, 0)


def audit(wanted):
    """Finds the modules that have kept one of some values: lists of what it is, the
    value, and whether a string may contain it."""
    seen, found = {id(CONFIG), id(globals())}, []
    for name, module in handed.items():
        waiting = [getattr(module, "__dict__", None)]
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if type(one) in (str, bytes):
                text = one if type(one) is str else os.fsdecode(one)
                for what, value, part in wanted:
                    if text == value or part and value in text:
                        found.append((what, name, text))
            elif is_data(one, name):
                waiting.extend(gc.get_referents(one))
    return found


def is_data(one, name):
    """Reports whether an object holds what a module has computed: code does not, nor
    do other modules and their classes."""
    kind = type(one)
    if isinstance(one, type):
        return getattr(one, "__module__", None) == name
    return kind is dict or gc.is_tracked(one) and not issubclass(kind, CODE)


CODE = (type(sys), type(is_data), type(len), type(sys._getframe()), type(is_data.__code__), Recorder)


def preload(names):
    recorder = Recorder()
    recorder.wrap()
    environments = [e for e in (os.environ, getattr(os, "environb", None)) if e is not None]
    for e in environments:
        e.__class__ = Reading
    try:
        for name in names:
            import_guarded(name)
        recorder.checkpoint()
    finally:
        for e in environments:
            e.__class__ = os._Environ
        recorder.unwrap()
    keep(recorder)
    recorder.restore()
    return recorder


def import_guarded(name):
    before = set(sys.modules)
    try:
        builtins.__import__(name)
    except BaseException as e:
        failed[name] = "%s: %s" % (type(e).__name__, e)
        for other in list(sys.modules):
            if other not in before:
                forget(other)


def forget(name):
    """Removes a module from sys.modules and from its parent."""
    module = sys.modules.pop(name)
    parent, _, child = name.rpartition(".")
    parent = sys.modules.get(parent) if parent else None
    names = getattr(parent, "__dict__", {})
    if names.get(child) is module:
        delattr(parent, child)


def keep(recorder):
    """Moves what was imported from sys.modules to the store."""
    names = {n: n[:1] + n[1:] for n in sys.modules if n not in BASE}
    for name, own in names.items():
        handed[own] = sys.modules[name]
        specs[own] = recorder.specs.get(name) or getattr(handed[own], "__spec__", None)
        changed = lasting(recorder.events.get(name, ()), recorder.before[3])
        if changed:
            effects[own] = changed
    for name, own in names.items():
        groups[own] = tuple(names[n] for n in group_of(name, recorder.touched))
    for name in names:
        hide(name)
    for owner, copied, _ in copies:
        if sys.getrefcount(copied) < 4:  # copies', the loop's, the call's
            recorder.refused.setdefault(owner, "it reads the program's arguments")
    for own, group in groups.items():
        for member in group:
            if member in recorder.refused:
                failed[member] = recorder.refused[member]
                groups[own] = ()
    left.update(dict.fromkeys(handed))


def lasting(changes, environment):
    """Leaves out variables that a module sets and removes again."""
    final = {name: value for kind, name, value in changes if kind == "environ"}
    gone = {name for name, value in final.items() if environment.get(name, MISSING) == value}
    return [c for c in changes if c[0] != "environ" or c[1] not in gone]


def hide(name):
    """Removes a module from sys.modules, and from its parent if the parent can be
    imported without it."""
    module = sys.modules.pop(name)
    parent, _, child = name.rpartition(".")
    package = handed.get(parent, sys.modules.get(parent)) if parent else None
    if getattr(package, "__dict__", {}).get(child) is module and name not in groups.get(parent, ()):
        attributes[name] = package, child
        delattr(package, child)


def group_of(name, touched):
    """What importing name puts in sys.modules, in the order of a plain run: a module
    comes after those that it imports (Lib/importlib/_bootstrap.py, _load_unlocked,
    puts it at the end again)."""
    found, seen, open_ = [], {name}, [(name, iter(touched.get(name, ())))]
    while open_:
        current, asked = open_[-1]
        for n in asked:
            if n in handed and n not in seen:
                seen.add(n)
                open_.append((n, iter(touched.get(n, ()))))
                break
        else:
            found.append(current)
            open_.pop()
    return found


# ---- Handing out ----------------------------------------------------------

load_unlocked = bootstrap._load_unlocked
real_import = builtins.__import__
search_path = []  # sys.path of the template
finders = []  # sys.meta_path of the template
replayed_finders = set()  # ids of the finders that preloaded modules have added
shadowing = {}  # names in a directory that may shadow a preloaded module: its top-level name
checked = {}  # entries of sys.path that were asked for what they shadow: their mtime and the names


def hand_out(spec):
    """In the place of _load_unlocked: hands out a module of the store, if it is
    what the search has found, or loads one as ever."""
    name = spec.name
    if name not in left or not same(spec, specs[name]):
        return load_unlocked(spec)
    missing = free(groups[name])
    if not missing:
        return load_unlocked(spec)
    modules = sys.modules
    for one in missing:
        modules[one] = handed[one]
        del left[one]
    for one in missing:
        if one in attributes:
            setattr(*attributes[one], handed[one])
        if one in effects:
            for change in effects[one]:
                if change[0] == "warning" and one == name and change[2][0] is None:
                    _warnings.warn(*change[1], 2)  # of the module that imports
                else:
                    replay(*change)
    if not left:
        bootstrap._load_unlocked = load_unlocked
    return modules[name]


# A traceback leaves out frames of this file only (Python/import.c,
# remove_importlib_frames).
hand_out.__code__ = hand_out.__code__.replace(co_filename=IMPORTLIB)


def same(found, kept):
    """Reports whether two specs are of the same module."""
    loader = found.loader
    if type(loader) is not type(kept.loader):
        loader = getattr(loader, "loader", None)  # importlib.util.LazyLoader's
        if type(loader) is not type(kept.loader):
            return False
    if found.origin != kept.origin:
        return False
    a, b = found.submodule_search_locations, kept.submodule_search_locations
    return (a is None) == (b is None) and (a is None or list(a) == list(b))


def free(group):
    """The modules of a group that are still to be handed out, or none if one of
    them cannot be."""
    modules, missing = sys.modules, []
    for name in group:
        if name in modules:
            if handed.get(name) is not modules[name]:
                return ()
        elif name in left:
            missing.append(name)
        else:
            return ()
    if builtins.__import__ is not real_import:
        return ()
    shadowed = shadowed_names()
    if shadowed is None or shadowed and any(name.partition(".")[0] in shadowed for name in missing):
        return ()
    return missing if finders_agree(missing) else ()


def finders_agree(names):
    """Reports whether the finders of sys.meta_path are those of the template, and
    whether others, asked as in a plain run, have none of the modules."""
    wanted = 0
    for finder in sys.meta_path:
        if wanted < len(finders) and (finder is finders[wanted] or wraps(finder, finders[wanted])):
            wanted += 1
        elif wanted < len(finders) and id(finder) not in replayed_finders and has_one(finder, names):
            return False
    return wanted == len(finders)


def wraps(finder, kept):
    return getattr(finder, "_finder", None) is kept  # hgdemandimport's


def has_one(finder, names):
    find_spec = getattr(finder, "find_spec", None)
    if find_spec is None:
        return False
    for name in names:
        parent = name.rpartition(".")[0]
        path = getattr(handed.get(parent, sys.modules.get(parent)), "__path__", None) if parent else None
        if find_spec(name, path, None) is not None:
            return True
    return False


def shadowed_names():
    """The top-level names that sys.path finds elsewhere than in the template's
    entries, or None if it has other entries."""
    shadowed, wanted = set(), 0
    for entry in sys.path:
        if wanted < len(search_path) and entry == search_path[wanted]:
            wanted += 1
        else:
            shadowed |= names_in(entry)
    return shadowed if wanted == len(search_path) else None


def names_in(entry):
    """The names of preloaded modules that an entry of sys.path has a module of."""
    if not isinstance(entry, (str, bytes)):
        return set()
    finder = external.PathFinder._path_importer_cache(entry)
    if finder is None:
        return set()
    if type(finder) is not external.FileFinder:
        return set(name for name in tops if finder.find_spec(name) is not None)
    try:
        changed = posix.stat(finder.path or ".").st_mtime
    except OSError:
        return set()
    last = checked.get(finder.path)
    if last is not None and last[0] == changed:
        return last[1]
    if changed != finder._path_mtime:
        finder._fill_cache()
        finder._path_mtime = changed
    names = set()
    for file in shadowing.keys() & finder._path_cache:
        spec = finder.find_spec(shadowing[file])
        if spec is not None and spec.loader is not None:
            names.add(shadowing[file])
    checked[finder.path] = changed, names
    return names


def replay(kind, name, value):
    """Repeats what a module's import changed elsewhere."""
    if kind in ("front", "back") and name == "meta_path":
        replayed_finders.update(map(id, value))
    if kind == "front":
        if name == "filters":
            set_filters(value + _warnings.filters)
        else:
            getattr(sys, name)[:0] = value
    elif kind == "back":
        if name == "filters":
            set_filters(_warnings.filters + value)
        else:
            getattr(sys, name).extend(value)
    elif kind == "environ":
        key = os.fsdecode(name)
        if value is not MISSING:
            os.environ[key] = os.fsdecode(value)
        elif key in os.environ:
            del os.environ[key]
    elif kind == "atexit":
        atexit_register(name, *value[0], **value[1])
    elif kind == "warning":
        place = value if value[0] is not None else value[1]
        if place is not None:
            _warnings.warn_explicit(*name, *place)
    elif kind == "renew":
        name(value)
    elif kind == "recursion":
        sys.setrecursionlimit(value)
    else:
        there = (sys if kind == "sys" else builtins).__dict__
        if value is MISSING:
            there.pop(name, None)
        else:
            there[name] = value


atexit_register = atexit.register


def prepare_search():
    """What the finder compares at a start."""
    search_path[:] = sys.path
    finders[:] = sys.meta_path
    suffixes = [""] + _imp.extension_suffixes() + external.SOURCE_SUFFIXES + external.BYTECODE_SUFFIXES
    for name in {n.partition(".")[0] for n in handed}:
        tops.append(name)
        for suffix in suffixes:
            shadowing[name + suffix] = name
    if CONFIG.get("script"):
        names_in(os.path.dirname(os.path.realpath(CONFIG["script"])))


tops = []


# ---- The template ---------------------------------------------------------

def template():
    """Imports, hides and reports; returns what each start needs."""
    own_directory()
    if sys.path is not system_lists["path"]:
        system_lists["path"] = sys.path
    if _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler:  # this template's caller ignores it
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    coerced = settle_environment()
    main_module()
    recorder = preload(CONFIG.get("imports", ()))
    if "linecache" in handed:
        handed["linecache"].cache.pop(__file__, None)
    ENVIRON.value = block_of(STACK)[1] if STACK is not None else first_environ
    prepare_search()
    report(recorder)
    return coerced


first_environ = ENVIRON.value


def own_directory():
    """Removes this file's directory from sys.path."""
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]
    for path in (__file__, os.path.dirname(__file__), os.path.dirname(os.path.realpath(__file__))):
        sys.path_importer_cache.pop(path, None)


def block_of(stack):
    """The addresses of argv and envp of an initial stack."""
    count = Long.from_address(stack).value
    return stack + 8, stack + 8 * (count + 2)


def settle_environment():
    """What CPython itself set in the environment: a coerced LC_CTYPE
    (Python/pylifecycle.c, _Py_CoerceLegacyLocale)."""
    if STACK is None:
        given.update(os.environ._data)
        return {}
    for entry in strings(block_of(STACK)[1]):
        key, equals, value = entry.partition(b"=")
        if equals:
            given.setdefault(key, value)
    return {k: v for k, v in os.environ._data.items() if given.get(k) != v}


def strings(address):
    """The strings of a NULL-terminated vector."""
    found = []
    while True:
        value = Text.from_address(address).value
        if value is None:
            return found
        found.append(value)
        address += 8


def report(recorder):
    lines = ["python %d.%d.%d" % sys.version_info[:3], "frames " + ("hidden" if HIDE else "visible")]
    for name in handed:
        lines.append("module " + name)
        origin = getattr(specs[name], "origin", None)
        if isinstance(origin, str) and origin.endswith(tuple(_imp.extension_suffixes())):
            lines.append("extension %s\t%s" % (name, origin))
        for what in reads.get(name, ()):
            lines.append("read %s\t%s" % (name, what))
        for change in effects.get(name, ()):
            lines.append("effect %s\t%s" % (name, change[0]))
    for name, reason in failed.items():
        lines.append("failed %s\t%s" % (name, reason))
    for key, value in names_read.items():
        key = os.fsdecode(key)
        lines.append("env " + key + ("" if value is None else "=" + os.fsdecode(value)))
    for module in dict.fromkeys(all_read):
        lines.append("found environ\tcopies its environment\t" + (module or ""))
    for name, (_, what, _) in RENEWED.items():
        if what and name in handed:
            lines.append("renewed %s\t%s" % (what, name))
    for what, module, text in audit(list(CONFIG.get("audit", ())) + [("terminal", name, 0) for name in terminal_names()]):
        lines.append("found %s\tkeeps %r\t%s" % (what, text, module))
    lines.extend("path " + str(entry) for entry in sys.path)
    for number in sorted(map(int, posix.listdir("/proc/self/fd"))):
        if number > 2:
            try:
                lines.append("fd %d\t%s" % (number, posix.readlink("/proc/self/fd/%d" % number)))
            except OSError:
                pass  # the directory's own
    write_report(lines)


def terminal_names():
    names = set()
    for number in range(3):
        try:
            names.add(posix.readlink("/proc/self/fd/%d" % number))
        except OSError:
            pass  # it is closed
    return [name for name in names if name.startswith("/dev/pts/")]


def write_report(lines):
    if not CONFIG.get("report"):
        return
    text = "".join(line.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for line in lines)
    number = posix.open(CONFIG["report"], posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600)
    data = os.fsencode(text)
    while data:
        data = data[posix.write(number, data):]
    posix.close(number)


def settle():
    """The last steps before the point."""
    for name in ("Recorder", "Reading", "Arguments", "replace", "preload", "keep", "report", "terminal_names", "template"):
        globals().pop(name, None)
    bootstrap._load_unlocked = hand_out
    gc.collect()
    gc.freeze()


def wait_at_point():
    """Forks at the point. Returns in the child of a warm start, with its start."""
    start = Start()
    before_fork()
    pid = fork()
    if pid:
        after_fork_parent()
        posix._exit(end_of(pid))
    posix.setsid()
    if syscall(157, POINT, POINT_VERSION, _ctypes.addressof(start), 0, 0) != 0:
        posix.write(2, b"residentctl: the point was passed in a plain run\n")
        posix._exit(3)
    after_fork_child()
    return start


def end_of(pid):
    if pid < 0:
        return 1
    status = posix.waitpid(pid, 0)[1]
    return posix.WEXITSTATUS(status) if posix.WIFEXITED(status) else 128 + posix.WTERMSIG(status)


# ---- A start --------------------------------------------------------------

class No(Exception):
    """Why a start has to be a normal one."""


def warm_start(start, coerced):
    """Sets the interpreter up for a caller and returns what is to be run."""
    argv_at, envp_at = block_of(start.stack)
    raw = strings(argv_at)
    variables = strings(envp_at)
    ENVIRON.value = envp_at
    try:
        argv = [os.fsdecode(a) for a in raw]
        set_environment(variables, coerced)
        ignore(start.ignored)
        streams()
        program = arguments(argv)
        renew()
        return program
    except BaseException as e:
        refuse(raw, variables, start.flags, str(e) if type(e) is No else "%s: %s" % (type(e).__name__, e))


def refuse(argv, variables, flags, reason):
    """Starts the real program instead."""
    name = os.path.basename(CONFIG["program"])
    if flags & STRICT:
        say("residentctl: error: %s: no resident start: %s\n" % (name, reason))
        posix._exit(STRICT_STATUS)
    if flags & EXPLAIN:
        say("residentctl: %s: started normally: %s\n" % (name, reason))
    try:
        environment = {}
        for entry in variables:
            key, equals, value = entry.partition(b"=")
            if equals:
                environment.setdefault(key, value)
        program = CONFIG["program"]
        if CONFIG.get("kind") == "script":
            argv = argv[CONFIG["prefix"]:]
            program = argv[0]
        posix.execve(program, argv, environment)
    except OSError as e:
        say("residentctl: error: %s: %s\n" % (name, e.strerror))
        posix._exit(126)


def say(text):
    try:
        posix.write(2, os.fsencode(text))
    except OSError:
        pass


def set_environment(variables, coerced):
    """Fills os.environ as posixmodule.c (convertenviron) does."""
    data = os.environ._data
    data.clear()
    for entry in variables:
        key, equals, value = entry.partition(b"=")
        if equals and key not in data:
            data[key] = value
    for key, value in coerced.items():
        posix.putenv(key, value)
        data[key] = value


def ignore(mask):
    """Has the interpreter know what its caller ignores."""
    n = 0
    while mask:
        n += 1
        if mask & 1:
            try:
                _signal.signal(n, _signal.SIG_IGN)
            except (OSError, ValueError):
                pass  # a signal that cannot be caught
        mask = mask >> 1 & 0x7fffffffffffffff


def arguments(argv):
    """Sets sys.argv, sys.orig_argv and sys.path[0] (Modules/main.c,
    pymain_run_python), and returns what is to be run: its kind, and the code, name
    or file."""
    if argv[0] != CONFIG_ARGV0:
        raise No("it was started by another name than its image")
    if CONFIG.get("kind") == "script":
        kind, rest = "script", argv[CONFIG["prefix"]:]
    else:
        kind, rest = interpreter_arguments(argv[1:])
    if VERSION >= (3, 10):
        sys.orig_argv[:] = argv
    if kind == "script":
        what = absolute(rest[0])
        source = open_script(what)
        sys.argv[:] = rest
    else:
        what, source = rest[0], None
        sys.argv[:] = ["-c" if kind == "code" else "-m"] + rest[1:]
    for _, copied, start in copies:
        copied[:] = sys.argv[start:]
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path.insert(0, first_path(kind, what))
        for name in names_in(sys.path[0]):
            raise No("its directory has a module that its image has from elsewhere: " + name)
    return kind, what, source


def absolute(path):
    """The path of __file__ (Python/fileutils.c, _Py_abspath)."""
    if path.startswith("/"):
        return path
    try:
        return posix.getcwd() + "/" + path
    except OSError:
        raise No("its working directory cannot be read")


def interpreter_arguments(rest):
    if not rest or rest[0] == "-" or rest[0] == "":
        raise No("it reads its program from its standard input")
    if rest[0] in ("-c", "-m"):
        if len(rest) < 2:
            raise No("an option of the interpreter lacks its argument")
        return "code" if rest[0] == "-c" else "module", rest[1:]
    if rest[0].startswith("-"):
        raise No("it has options of the interpreter")
    return "script", rest


def open_script(path):
    """Opens a script as C's FILE. Whatever is no ordinary source is left to the
    interpreter (Python/pythonrun.c, maybe_pyc_file and _PyRun_AnyFile)."""
    try:
        number = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as e:
        raise No("it cannot open its script: " + e.strerror)
    if posix.fstat(number).st_mode & 0o170000 != 0o100000:
        raise No("its script is not a regular file")
    if path.endswith(".pyc") or posix.pread(number, 2, 0) == external.MAGIC_NUMBER[:2]:
        raise No("its script is byte code")
    if may_be_archive(number):
        raise No("its script is an archive")
    sys.path_importer_cache[path] = None
    return fdopen(number, b"rb")


def may_be_archive(number):
    """Reports whether zipimport could read a file: an end of central directory is in
    its last 64 KiB (Lib/zipimport.py, _read_directory)."""
    size = posix.fstat(number).st_size
    length = min(size, 65557)
    return b"PK\5\6" in posix.pread(number, length, size - length)


def first_path(kind, what):
    """sys.path[0] (Python/pathconfig.c, _PyPathConfig_ComputeSysPath0)."""
    if kind == "code":
        return ""
    if kind == "module":
        try:
            return posix.getcwd()
        except OSError:
            raise No("its working directory cannot be read")
    real = realpath(os.fsencode(what), PATH_BUFFER)
    path = what if real is None else os.fsdecode(real)
    slash = path.rfind("/")
    return path[:slash] if slash > 0 else path[:slash + 1]


PATH_MEMORY = (Long * 513)()
PATH_BUFFER = _ctypes.addressof(PATH_MEMORY)


def streams():
    """Makes the standard streams again (Python/pylifecycle.c, init_sys_streams)."""
    try:
        if posix.fstat(0).st_mode & 0o170000 == 0o040000:
            raise No("its standard input is a directory")
    except OSError:
        pass
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = make_stream(number, name, mode)
        setattr(sys, name, stream)
        setattr(sys, "__" + name + "__", stream)


def make_stream(number, name, mode):
    """One stream (Python/pylifecycle.c, create_stdio). The text stream's object
    stays the same, because preloaded modules may have kept it."""
    try:
        posix.fstat(number)
    except OSError:
        return None
    unbuffered = STREAMS["unbuffered"]
    buffer = _io.open(number, mode + "b", 0 if unbuffered and mode == "w" else -1, closefd=False)
    raw = buffer if unbuffered and mode == "w" else buffer.raw
    raw.name = "<" + name + ">"
    lines = not unbuffered and (number == 2 or raw.isatty())
    encoding, errors = STREAMS[name]
    stream = STREAM_OBJECTS.pop(name)
    stream.__init__(buffer, encoding, errors, "\n", lines, unbuffered)
    stream.mode = mode
    return stream


def note_streams():
    known = [s for s in (sys.__stdin__, sys.__stdout__) if s is not None]
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, "__" + name + "__")
        if stream is None:
            stream = _io.TextIOWrapper(_io.BytesIO(), known[0].encoding, known[0].errors)
        STREAMS[name] = stream.encoding, "backslashreplace" if name == "stderr" else stream.errors
        STREAM_OBJECTS[name] = stream
        STREAMS["unbuffered"] = stream.write_through  # -u or PYTHONUNBUFFERED


STREAMS = {}
STREAM_OBJECTS = {}


def renew():
    """Renews what the after-fork handlers do not: see the table in the documents."""
    time.tzset()
    for renewal, module in renewals:
        renewal(module)


def renew_thread(threading):
    main = threading.main_thread()
    if hasattr(main, "_native_id"):
        main._native_id = threading.get_native_id()


def renew_logging(logging):
    logging._startTime = time.time_ns() if VERSION >= (3, 13) else time.time()


def renew_numpy(mtrand):
    mtrand._rand.seed()


def renew_multiprocessing(process):
    main = process.current_process()
    main._config["authkey"] = process.AuthenticationString(posix.urandom(32))
    try:
        process.ORIGINAL_DIR = os.path.abspath(posix.getcwd())
    except OSError:
        process.ORIGINAL_DIR = None


def renew_mercurial_arguments(pycompat):
    pycompat.sysargv[:] = map(os.fsencode, sys.argv)


def renew_umask(name, value=lambda mask: mask):
    def renew(module):
        mask = posix.umask(0)
        posix.umask(mask)
        setattr(module, name, value(mask))
    return renew


def renew_curses(curses):
    """Looks the terminal up again, and asks for its size, for what the module knows
    of it."""
    if looked_up:
        term, number = looked_up[0]  # setupterm works once (Modules/_cursesmodule.c)
        class Function(_ctypes.CFuncPtr):
            _flags_ = CDECL
            _restype_ = Int
        restart = Function(_ctypes.dlsym(_ctypes.dlopen(getattr(curses, "__file__", None), os.RTLD_NOW | os.RTLD_NOLOAD), "restartterm"))
        restart(Text(None if term is None else os.fsencode(term)), Int(number), Pointer(_ctypes.addressof(CURSES_ERROR)))


CURSES_ERROR = Int()


def renew_sphinx_console(console):
    console._tw = console.get_terminal_width()


def renew_ansible_ids(variables):
    """What its unique ids begin with."""
    uuid = variables.uuid
    uuid._node = None
    variables.node_mac = ("%012x" % uuid.getnode())[:12]
    variables.random_int = ("%08x" % variables.random.randint(0, variables._MAXSIZE))[:8]


def renew_ansible_display(display):
    one = vars(display.Display).get("_Singleton__instance")
    if one is not None:
        one._set_column_width()


def renew_ansible(constants):
    """A temporary directory of its own, which is removed at the exit
    (ansible/config/manager.py, ensure_type)."""
    constants.DEFAULT_LOCAL_TMP = constants.config.get_config_value("DEFAULT_LOCAL_TMP", variables=vars(constants))


def forget_ansible(constants):
    """Removes the template's directory, and what would remove it in each start."""
    os.rmdir(constants.DEFAULT_LOCAL_TMP)
    changes = effects.get("ansible.constants", [])
    changes[:] = [c for c in changes if c[0] != "atexit"]


def renew_nothing(module):
    pass


# By module: its renewal, what of its finding that makes up for, and what is done with it
# at once.
RENEWED = {
    "threading": (renew_thread, "", None),
    "logging": (renew_logging, "", None),
    "random": (renew_nothing, "random", None),  # its own handler of os.register_at_fork
    "numpy.random.mtrand": (renew_numpy, "random", None),
    "multiprocessing.process": (renew_multiprocessing, "cwd random", None),
    "mercurial.pycompat": (renew_mercurial_arguments, "", None),
    "mercurial.posix": (renew_umask("umask"), "umask", None),
    "_curses": (renew_curses, "terminal", None),
    "sphinx.util.console": (renew_sphinx_console, "terminal", None),
    "sphinx.testing.path": (renew_umask("UMASK", lambda mask: 0o777 & ~mask), "umask", None),
    "ansible.utils.vars": (renew_ansible_ids, "random", None),
    # The keys of Rust's hash tables are, as the hash seed is, the same in all starts.
    "cryptography.hazmat.bindings._rust": (renew_nothing, "random", None),
    "ansible.utils.display": (renew_ansible_display, "terminal", None),
    "ansible.constants": (renew_ansible, "write random", forget_ansible),
}
renewals = []  # of the modules of a plain start


def find_renewals():
    """Has each module that was imported before the point renewed: when it is handed
    out, or, if a plain start imports it, at the start."""
    for name, (renewal, _, forget_it) in RENEWED.items():
        if name in handed and forget_it is not None:
            tell_importing(name)
            forget_it(handed[name])
            tell_importing(None)
        if name in handed:
            effects.setdefault(name, []).append(("renew", renewal, handed[name]))
        elif name in sys.modules:
            renewals.append((renewal, sys.modules[name]))


# ---- The user's program ---------------------------------------------------

def main_module():
    """A __main__ as Python/pylifecycle.c (add_main_module) makes it."""
    main = type(sys)("__main__")
    names = main.__dict__
    if VERSION < (3, 14):
        names["__annotations__"] = {}
    names["__builtins__"] = builtins
    names["__loader__"] = bootstrap.BuiltinImporter
    sys.modules["__main__"] = main
    return names


def run(kind, what, source):
    """Runs the program and returns the exit status, or None for the death by
    SIGINT."""
    names = main_module()
    raised = None
    try:
        if kind == "script":
            names["__file__"], names["__cached__"] = what, None
            names["__loader__"] = external.SourceFileLoader("__main__", what)
            bare(run_file, source, os.fsencode(what), FILE_INPUT, names, names, 1, None)
        elif kind == "code":
            run_code(what, names)
        else:
            import runpy
            bare(call_object, runpy._run_module_as_main, (what, 1))
    except BaseException as e:
        raised = e
    if kind == "script":
        names.pop("__file__", None)
        names.pop("__cached__", None)
    del names
    return status_of(raised)


def run_code(code, names):
    try:
        encoded = code.encode()
    except UnicodeEncodeError:
        stderr_text("Unable to decode the command from the command line:\n")
        raise
    if VERSION >= (3, 13):
        import linecache
        compiled = bare(compile_string, encoded, b"<string>", FILE_INPUT, None, -1)
        key = compiled if hasattr(linecache, "_interactive_cache") else "<string>"  # 3.13.0 has it by name
        linecache._register_code(key, code, "<string>")
        bare(evaluate, compiled, names, names)
    else:
        bare(run_string, encoded, FILE_INPUT, names, names, None)


compile_string = function("Py_CompileStringExFlags", Object, Text, Text, Int, Pointer, Int)
evaluate = function("PyEval_EvalCode", Object, Object, Object, Object)


def status_of(raised):
    """Prints an exception and returns the status (Python/pythonrun.c,
    _PyErr_PrintEx)."""
    if raised is None:
        return 0
    raised.__traceback__ = foreign_frames(raised.__traceback__)
    if isinstance(raised, SystemExit):
        return exit_status(raised)
    last_exception(raised)
    interrupted = type(raised) is KeyboardInterrupt
    status = print_exception(raised)
    return None if interrupted and status == 1 else status


def foreign_frames(traceback):
    """A traceback without this file's frames."""
    own = run.__code__.co_filename
    while traceback is not None and traceback.tb_frame.f_code.co_filename == own:
        traceback = traceback.tb_next
    return traceback


def exit_status(raised):
    """Python/pythonrun.c, _Py_HandleSystemExit."""
    code = raised.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xff if -1 << 63 <= code < 1 << 63 else int(code)
    stderr_text(str(code), flush=True)
    stderr_text("\n")
    return 1


def stderr_text(text, flush=False):
    """Writes to sys.stderr, or without one to C's (Python/sysmodule.c,
    PySys_WriteStderr)."""
    stderr = getattr(sys, "stderr", None)
    try:
        if stderr is None:
            posix.write(2, text.encode("utf-8", "backslashreplace"))
            return
        stderr.write(text)
        if flush:
            stderr.flush()
    except BaseException:
        pass


def last_exception(raised):
    sys.last_type, sys.last_value, sys.last_traceback = type(raised), raised, raised.__traceback__
    if VERSION >= (3, 12):
        sys.last_exc = raised


def print_exception(raised):
    hook = getattr(sys, "excepthook", None)
    if hook is None:
        stderr_text("sys.excepthook is missing\n")
        bare(display, type(raised), raised, raised.__traceback__)
        return 1
    second = None
    try:
        bare(call_object, hook, (type(raised), raised, raised.__traceback__))
    except BaseException as e:
        second = e
    if second is not None:
        if isinstance(second, SystemExit):
            return exit_status(second)
        second.__traceback__ = foreign_frames(second.__traceback__)
        stderr_text("Error in sys.excepthook:\n")
        bare(display, type(second), second, second.__traceback__)
        stderr_text("\nOriginal exception was:\n")
        bare(display, type(raised), raised, raised.__traceback__)
    return 1


# ---- The end --------------------------------------------------------------

def finish(status):
    """Ends the process as Py_FinalizeEx does, but for what was there at the point.
    Returns if a normal end of the interpreter is needed."""
    if status is not None and not 0 <= status < 256:
        return  # a number that C cannot hold is an error of its own
    threading = sys.modules.get("threading")
    if threading is not None and not shut_down(threading):
        return
    if thread_count() > 0:
        return
    try:
        bare(call_object, run_exitfuncs, ())
    except BaseException:
        pass  # 3.9 raises what it has printed
    if CONFIG.get("exit") == "full" or foreign_code() or not flushed():
        return
    if gc.isenabled():
        gc.collect()
    before = clear_user_part()
    if left_over() or not flushed():
        sys.modules.update(before)
        return
    del before
    fflush(None)
    end(status)


def let_through():
    """What is printed while the interpreter ends goes out line by line: its streams are
    not the ones that it flushes at last."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(line_buffering=True)
        except (AttributeError, ValueError, OSError):
            pass  # it is another object, or closed


def end(status):
    if status is None:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        posix.kill(posix.getpid(), _signal.SIGINT)
        status = 130
    posix._exit(status)


def shut_down(threading):
    try:
        bare(call_object, threading._shutdown, ())
        return True
    except BaseException:
        return False


run_exitfuncs = atexit._run_exitfuncs
thread_count = sys.modules["_thread"]._count


def foreign_code():
    """Reports whether a library was loaded after the point: it may have exit
    handlers."""
    return LAST_LIBRARY is None or LAST_LIBRARY.value is not None


def flushed():
    """Flushes as flush_std_files of Python/pylifecycle.c; an error is left to it."""
    for stream in (getattr(sys, "stdout", None), getattr(sys, "stderr", None)):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            return False
    return True


SPECIAL = ("path", "argv", "ps1", "ps2", "last_exc", "last_type", "last_value", "last_traceback", "path_hooks",
           "path_importer_cache", "meta_path", "__interactivehook__")


def clear_user_part():
    """Python/pylifecycle.c, finalize_modules, for modules made after the point.
    Returns the others."""
    builtins.__dict__["_"] = None
    system = sys.__dict__
    for name in SPECIAL:
        if name in system:
            system[name] = None
    for name in ("stdin", "stdout", "stderr"):
        system[name] = system.get("__" + name + "__")
    modules, weak, others = sys.modules, [], {}
    for name in list(modules):
        module = modules[name]
        if module is handed.get(name, MISSING) or module is BASE.get(name, MISSING):
            others[name] = module
        elif isinstance(module, MODULE):
            weak.append(reference(module))
        modules[name] = None
        del module
    modules.clear()
    restore_builtins()
    gc.collect()
    for one in reversed(weak):
        module = one()
        if module is not None:
            clear_module(names_of(module))
        del module
    gc.collect()
    return others


MODULE = type(sys)
names_of = MODULE.__dict__["__dict__"].__get__  # asking a lazy module itself would load it
reference = sys.modules["_weakref"].ref


def restore_builtins():
    names = builtins.__dict__
    if len(names) != len(BUILTINS) or any(names.get(k) is not v for k, v in BUILTINS.items()):
        before = dict(names)  # what is dropped still finds builtins
        names.clear()
        names.update(BUILTINS)
        del before


def clear_module(names):
    """Objects/moduleobject.c, _PyModule_ClearDict."""
    for name, value in list(names.items()):
        if value is not None and isinstance(name, str) and name[:1] == "_" and name[1:2] != "_":
            value = None
            names[name] = None
    for name, value in list(names.items()):
        if value is not None and isinstance(name, str) and name != "__builtins__":
            value = None
            names[name] = None


def left_over():
    """Reports whether an object that was made after the point, and that has to be
    finalised, is still alive: a preloaded module holds it."""
    for one in gc.get_objects():
        if not hasattr(type(one), "__del__"):
            continue
        if type(one) is GENERATOR and one.gi_frame is None:
            continue
        if isinstance(one, STREAM_TYPES) and is_standard(one):
            continue
        return True
    return False


GENERATOR = type((lambda: (yield))())
STREAM_TYPES = (_io.TextIOWrapper, _io.BufferedReader, _io.BufferedWriter, _io.FileIO)


def is_standard(stream):
    try:
        return stream.fileno() <= 2 and not getattr(stream, "closefd", False)
    except (OSError, ValueError):
        return True  # it is closed


# ---- Training -------------------------------------------------------------

def train():
    """Runs a program as the interpreter does and reports what it has imported."""
    global CONFIG_ARGV0
    own_directory()
    for name in [n for n in sys.modules if n not in BASE]:
        del sys.modules[name]
    process = posix.getpid()

    def reported(called):
        def report_first(*arguments):
            if posix.getpid() == process:
                report_imports()
            return called(*arguments)
        return report_first

    for name in ("_exit", "execv", "execve"):
        wrapped = reported(getattr(posix, name))
        setattr(posix, name, wrapped)
        setattr(os, name, wrapped)
    words = CONFIG["argv"]
    CONFIG_ARGV0 = words[0]
    status = run(*arguments(words))
    if posix.getpid() == process:
        report_imports()
    return status


def report_imports():
    names = []
    for name, module in list(sys.modules.items()):
        if name in BASE or type(module).__name__ == "_LazyModule":
            continue
        if getattr(module, "__spec__", None) is not None:
            names.append(name)
    write_report(names)


# ---- A fork server in the point's place -----------------------------------

PIDFD_OPEN, PIDFD_GETFD = 434, 438


def serve():
    """Forks for each request on standard input and returns in the child. A request
    is eight digits, its length, and fields that end in NUL: the client's process
    id, its descriptors of 0, 1, 2 (or -1) and of the answer, umask, ignored
    signals, flags, directory, the number of arguments, these, the environment."""
    posix.dup2(0, 900, False)
    posix.close(posix.open("/dev/null", posix.O_RDONLY))
    posix.write(1, b"ready\n")
    while True:
        length = exactly(8)
        if not length:
            posix._exit(0)
        fields = exactly(int(length)).split(b"\0")[:-1]
        client = syscall(PIDFD_OPEN, int(fields[0]), 0, None, 0, 0)
        answer = syscall(PIDFD_GETFD, client, int(fields[4]), None, 0, 0)
        before_fork()
        pid = fork()
        if pid == 0:
            return served(client, answer, fields)
        after_fork_parent()
        posix.close(client)
        posix.write(answer, b"%d\n" % posix.waitpid(pid, 0)[1])
        posix.close(answer)


def exactly(size):
    data = b""
    while len(data) < size:
        more = posix.read(900, size - len(data))
        if not more:
            return b""
        data += more
    return data


def served(client, answer, fields):
    """The child of a request: takes over what belongs to its caller."""
    taken = [int(n) if int(n) < 0 else syscall(PIDFD_GETFD, client, int(n), None, 0, 0) for n in fields[1:4]]
    for number in (client, answer, 900):
        posix.close(number)
    for number, source in enumerate(taken):
        if source < 0:
            posix.close(number)
        else:
            posix.dup2(source, number)
    for source in taken:
        if source > 2:
            posix.close(source)
    posix.umask(int(fields[5]))
    posix.chdir(fields[8])
    count = int(fields[9])
    start = Start(initial_stack(fields[10:10 + count], fields[10 + count:]), int(fields[6]), int(fields[7]))
    after_fork_child()
    return start


def initial_stack(argv, environment):
    words = [len(argv)]
    for vector in (argv, environment):
        for value in vector:
            text = Text(value)
            memory.append(text)
            words.append(Pointer.from_address(_ctypes.addressof(text)).value)
        words.append(0)
    block = (Long * len(words))(*words)
    memory.append(block)
    return _ctypes.addressof(block)


memory = []


# ---- The order of everything ----------------------------------------------

LAST_LIBRARY = None
BUILTINS = {}
CONFIG_ARGV0 = None


def main():
    global LAST_LIBRARY, BUILTINS, CONFIG_ARGV0
    coerced = template()
    note_streams()
    with open("/proc/self/cmdline", "rb") as file:
        CONFIG_ARGV0 = os.fsdecode(file.read().partition(b"\0")[0])
    find_renewals()
    LAST_LIBRARY = last_library()
    BUILTINS = dict(builtins.__dict__)
    settle()
    wait = serve if CONFIG.get("point") == "forkserver" else wait_at_point
    start = wait()
    program = warm_start(start, coerced)
    status = run(*program)
    finish(status)
    let_through()
    return status


if CONFIG["mode"] == "template":
    RESULT = main()
elif CONFIG["mode"] == "train":
    RESULT = train()
bootstrap._load_unlocked = load_unlocked
gc.unfreeze()
if RESULT:
    raise SystemExit(RESULT)

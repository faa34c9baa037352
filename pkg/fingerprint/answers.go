package fingerprint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/ldcache"
)

// preloads is the list of libraries that glibc loads into every program (ld.so(8)).
const preloads = "/etc/ld.so.preload"

// recordAnswers adds to the check of /etc/ld.so.cache what that answers for the names that
// the dynamic linker may have looked up in it. Where that cannot be found out there are no
// answers, and the file's identity counts. A cache that is another one by now is
// ErrChanged.
func (d *Dependencies) recordAnswers() error {
	i := slices.IndexFunc(d.Checks, func(c Checked) bool { return c.Path == ldcache.Path && !c.absent() })
	if i < 0 {
		return nil // musl, or nothing was looked up
	}
	names, ok := d.lookedUp()
	if !ok {
		return nil
	}
	cache, id, err := readCache(ldcache.Path)
	if err != nil {
		return nil
	}
	if id != d.Checks[i].ID {
		return fmt.Errorf("%s %w", ldcache.Path, ErrChanged)
	}
	answers, err := answersOf(cache, names)
	if err == nil {
		d.Checks[i].Answers = answers
	}
	return nil
}

func answersOf(cache *ldcache.Cache, names []string) ([]Answer, error) {
	var answers []Answer
	for _, name := range names {
		entries, err := cache.Lookup(name)
		if err != nil {
			return nil, err
		}
		answers = append(answers, Answer{Name: name, Entries: entries})
	}
	return answers, nil
}

// staleAnswers names the first name for which the cache has another answer now.
func staleAnswers(c Checked) string {
	cache, _, err := readCache(c.Path)
	if err != nil {
		return fmt.Sprintf("the answers of %s cannot be compared: %v", c.Path, err)
	}
	for _, was := range c.Answers {
		now, err := cache.Lookup(was.Name)
		if err != nil {
			return fmt.Sprintf("the answer of %s for %s cannot be read: %v", c.Path, was.Name, err)
		}
		if !slices.Equal(now, was.Entries) {
			return fmt.Sprintf("the answer of %s for %s is another: %s instead of %s",
				c.Path, was.Name, describe(now), describe(was.Entries))
		}
	}
	return ""
}

// describe names the libraries of an answer, for people.
func describe(entries []ldcache.Entry) string {
	var paths []string
	for _, e := range entries {
		paths = append(paths, e.Path)
	}
	if len(paths) == 0 {
		return "nothing"
	}
	return strings.Join(paths, ", ")
}

// lastCache is the cache that this process has read last: all programs share it.
var lastCache struct {
	sync.Mutex
	id    linux.FileID
	cache *ldcache.Cache
}

// readCache reads the cache at path, and its identity.
func readCache(path string) (*ldcache.Cache, linux.FileID, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait
	if err != nil {
		return nil, linux.FileID{}, err
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := linux.EINTR(func() error { return syscall.Fstat(int(f.Fd()), &st) }); err != nil {
		return nil, linux.FileID{}, err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, linux.FileID{}, errors.New("it is not a regular file")
	}
	id := linux.IDOf(&st)
	lastCache.Lock()
	defer lastCache.Unlock()
	if lastCache.cache != nil && lastCache.id == id {
		return lastCache.cache, id, nil
	}
	now, err := linux.CoarseNow()
	if err != nil {
		return nil, id, err
	}
	raw, err := io.ReadAll(io.LimitReader(struct{ io.Reader }{f}, ldcache.MaxSize+1))
	if err != nil {
		return nil, id, err
	}
	cache, err := ldcache.Parse(raw)
	// A change within the same tick would leave the same identity: see Settle.
	if err == nil && id.Ctime < now {
		lastCache.id, lastCache.cache = id, cache
	}
	return cache, id, err
}

// lookedUp returns the names that the dynamic linker may have looked up in the cache,
// which leaves no trace: those that the program and its libraries need, or filter, and
// that name no path. Some more do no harm; left out are
//
//   - the dynamic linker's own, which is always loaded (glibc elf/dl-load.c,
//     _dl_lookup_map), and
//   - those that were found in a directory of DT_RPATH or DT_RUNPATH, where is looked
//     before (_dl_map_new_object).
//
// It reports false where it cannot say: a file cannot be read, or a name has a dynamic
// string token.
func (d *Dependencies) lookedUp() (names []string, ok bool) {
	objects, ok := d.objects()
	if !ok {
		return nil, false
	}
	linker, _, err := look(d.Linker.Path)
	if err != nil {
		return nil, false
	}
	own, err := elfinfo.Open(linker)
	if err != nil {
		return nil, false
	}
	filters := slices.ContainsFunc(objects, func(o object) bool { return len(o.Filters) > 0 })
	seen := map[string]bool{own.SOName: true}
	for _, o := range objects {
		for _, name := range slices.Concat(o.preloads, o.Needed, o.Filters) {
			if strings.Contains(name, "/") || seen[name] {
				continue
			}
			if strings.Contains(name, "$") {
				return nil, false
			}
			seen[name] = true
			// The first that needs it finds it for all; filters are loaded out of turn.
			if filters || !d.foundIn(o.search, name) {
				names = append(names, name)
			}
		}
	}
	if objects[0].Path != d.Program.Path {
		names = append(names, d.loadedLater(seen)...)
	}
	return names, true
}

// loadedLater are the names of libraries that nothing needs: a script's interpreter has loaded
// them when it ran (dlopen(3)), by their file names perhaps.
func (d *Dependencies) loadedLater(seen map[string]bool) (names []string) {
	for _, l := range d.Libraries {
		if name := filepath.Base(l.Path); strings.HasPrefix(name, "lib") && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// object is the program or a library.
type object struct {
	*elfinfo.File
	preloads []string
	search   []string // some of the directories in which it is looked before the cache
}

// objects are the program and its libraries, in the order in which the dynamic linker
// goes through what they need: breadth first, which is the order in which it opened them
// (elf/dl-deps.c, _dl_map_object_deps; preloaded ones come before).
func (d *Dependencies) objects() (objects []object, ok bool) {
	libraries := d.Libraries
	program, err := elfinfo.Open(d.Program.Path)
	var refused *elfinfo.Refusal
	if errors.As(err, &refused) && refused.Kind == elfinfo.Script && len(libraries) > 0 {
		// Its interpreter is what was executed.
		program, err = elfinfo.Open(libraries[0].Path)
		libraries = libraries[1:]
	}
	if err != nil {
		return nil, false
	}
	first := object{File: program}
	if first.preloads, ok = d.preloads(); !ok {
		return nil, false
	}
	// _dl_get_origin: what /proc/self/exe says.
	real, err := filepath.EvalSymlinks(program.Path)
	if err != nil {
		return nil, false
	}
	first.search = directories(program, real)
	objects = append(objects, first)
	for _, l := range libraries {
		file, err := elfinfo.Open(l.Path)
		if err != nil {
			return nil, false
		}
		o := object{File: file, search: directories(file, l.Path)}
		if file.RunPath == "" && program.RunPath == "" {
			o.search = slices.Concat(o.search, directories(program, real))
		}
		objects = append(objects, o)
	}
	return objects, true
}

// directories are those of DT_RUNPATH, or without it of DT_RPATH, of an object that was
// loaded by this path; those with another token than $ORIGIN are left out.
func directories(f *elfinfo.File, path string) (dirs []string) {
	search := f.RunPath
	if search == "" {
		search = f.RPath
	}
	for _, dir := range strings.Split(search, ":") {
		for _, token := range []string{"$ORIGIN", "${ORIGIN}"} {
			if rest, ok := strings.CutPrefix(dir, token); ok && (rest == "" || rest[0] == '/') {
				dir = filepath.Dir(path) + rest
			}
		}
		if dir != "" && !strings.Contains(dir, "$") {
			dirs = append(dirs, strings.TrimRight(dir, "/"))
		}
	}
	return dirs
}

// foundIn reports whether a library that was loaded is the one of this name in one of
// the directories.
func (d *Dependencies) foundIn(dirs []string, name string) bool {
	return slices.ContainsFunc(d.Libraries, func(l File) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool { return l.Path == dir+"/"+name })
	})
}

// preloads are the words of /etc/ld.so.preload, of its comments too, if the dynamic linker
// has read that (elf/rtld.c, dl_main).
func (d *Dependencies) preloads() (words []string, ok bool) {
	i := slices.IndexFunc(d.Checks, func(c Checked) bool { return c.Path == preloads && !c.absent() })
	if i < 0 {
		return nil, true
	}
	raw, err := os.ReadFile(preloads)
	if err != nil || len(raw) > ldcache.MaxSize {
		return nil, false
	}
	if id, err := StatID(preloads); err != nil || id != d.Checks[i].ID {
		return nil, false
	}
	return strings.FieldsFunc(string(raw), func(r rune) bool { return strings.ContainsRune(" \t\n:", r) }), true
}

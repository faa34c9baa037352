package resident

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/ldcache"
	"github.com/residentctl/residentctl/pkg/registry"
)

// A changed set is files that a build or a package system has changed, added or removed, as it
// names them. On a system with merged directories that may be /lib/x or /usr/lib/x, so paths
// are compared by where they lead to, also when nothing is there any more.
type changed struct {
	places places
	paths  map[string]bool // as named, and where they lead to
	dirs   map[string]bool // where these are
	inodes map[linux.Inode]bool
	all    bool // /etc/ld.so.cache has changed
}

func newChanged(paths []string) *changed {
	c := &changed{places: places{}, paths: map[string]bool{}, dirs: map[string]bool{}, inodes: map[linux.Inode]bool{}}
	cache := c.places.of(ldcache.Path)
	for _, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			continue // it is relative, and the working directory is gone
		}
		// The name may be that of a link, which has been pointed elsewhere.
		for _, p := range []string{abs, c.places.name(abs), c.places.of(abs)} {
			c.paths[p], c.dirs[filepath.Dir(p)] = true, true
			c.all = c.all || p == cache || p == ldcache.Path
		}
		if id, err := linux.StatID(abs); err == nil {
			c.inodes[id.Inode()] = true
		}
	}
	return c
}

// has reports whether a path is, or leads to, one of the files; one that ends in a slash,
// whether one of them is in that directory.
func (c *changed) has(path string) bool {
	if dir, ok := strings.CutSuffix(path, "/"); ok && dir != "" {
		return c.dirs[dir] || c.dirs[c.places.of(dir)]
	}
	if c.paths[path] || c.paths[c.places.name(path)] || c.paths[c.places.of(path)] {
		return true
	}
	id, err := linux.StatID(path)
	return err == nil && c.inodes[id.Inode()]
}

// binaries are the inodes of the files that are there.
func (c *changed) binaries() (all []linux.Inode) {
	for i := range c.inodes {
		all = append(all, i)
	}
	return all
}

// places is where directories lead to, by path.
type places map[string]string

// maxLinks is how many links a path may have: MAXSYMLINKS of linux/namei.h.
const maxLinks = 40

// name is a path with the links of its directory resolved, as far as that is there.
func (p places) name(path string) string {
	if path == "/" {
		return path
	}
	return filepath.Join(p.dir(filepath.Dir(path)), filepath.Base(path))
}

func (p places) dir(path string) string {
	if path == "/" {
		return path
	}
	if known, ok := p[path]; ok {
		return known
	}
	p[path] = p.of(path)
	return p[path]
}

// of is where a path leads to, also a link to something that does not exist.
func (p places) of(path string) string {
	for range maxLinks {
		path = p.name(path)
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return path
}

// usingFiles are the entries that use one of the files.
func (m *Manager) usingFiles(paths []string) ([]registry.Record, error) {
	c := newChanged(paths)
	if c.all {
		return m.registry.List()
	}
	if len(c.paths) == 0 {
		return nil, nil
	}
	return m.registry.ByFiles(c.has, c.binaries())
}

package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/store"
)

// words are the mounts in the form that parseCover reads: the files of each in turn.
func (c *Cover) words() (words []string) {
	for _, m := range c.Mounts {
		words = append(words, fileWord(m.From), fileWord(m.To))
	}
	return words
}

// fileWord names a file by device and inode, which are the same in every namespace, and by
// its path.
func fileWord(f store.File) string { return f.Inode.String() + ":" + f.Path }

// parseCover undoes words.
func parseCover(words []string) (*Cover, error) {
	c := &Cover{}
	for pair := range slices.Chunk(words, 2) {
		if len(pair) != 2 {
			return nil, errors.New("the files to mount are not pairs")
		}
		from, err := parseFileWord(pair[0])
		if err != nil {
			return nil, err
		}
		to, err := parseFileWord(pair[1])
		if err != nil {
			return nil, err
		}
		c.Mounts = append(c.Mounts, Mount{From: from, To: to})
	}
	return c, nil
}

// parseFileWord undoes fileWord.
func parseFileWord(s string) (f store.File, err error) {
	word, path, _ := strings.Cut(s, ":")
	inode, ok := linux.ParseInode(word)
	f = store.File{Path: path, Inode: inode}
	if !ok || !filepath.IsAbs(path) {
		return f, fmt.Errorf("a file to mount must be DEVICE-INODE:PATH, not %q", s)
	}
	return f, nil
}

// mountInside makes the mounts in a namespace that exists, and gives up the
// capabilities that an ordinary user got for it.
func mountInside(words []string) error {
	c, err := parseCover(words)
	if err == nil {
		err = c.Mount()
	}
	if os.Geteuid() == 0 {
		return err
	}
	// Also where the command is executed without the mounts.
	return errors.Join(err, DropCapabilities())
}

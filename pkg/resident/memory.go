package resident

import (
	"fmt"
	"os"

	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/registry"
)

// DefaultMemoryLimit is AddOptions' MemoryLimit where that is 0.
const DefaultMemoryLimit = linkstop.DefaultMemory

// withinLimit refuses an image in dir that CRIU has made larger than it may be, in bytes.
func withinLimit(dir string, limit uint64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	size := uint64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() { // other layouts are in folders
			size += uint64(info.Size())
		}
	}
	if size > limit {
		return &linkstop.Refusal{
			Reason: fmt.Sprintf("its image takes %d MiB, more than the limit of %d MiB", size>>20, limit>>20),
			Hint:   linkstop.MemoryHint,
		}
	}
	return nil
}

// limitOf is how much memory the program of an entry may have when its image is made
// again. A record does not hold with what limit it was added, but an image that is large
// was allowed to be: it may grow to twice its size.
func limitOf(rec registry.Record) uint64 {
	return max(DefaultMemoryLimit, 2*uint64(rec.ImageBytes)/uint64(max(rec.Layouts, 1)))
}

package resident

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/residentctl/residentctl/pkg/conf"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// MaxLayouts is how many layouts an image may have.
const MaxLayouts = conf.MaxLayouts

// A layout is one image of a program, at addresses of its own.
type layout struct {
	store   *store.Store
	id      string        // of the image that it is part of
	program *elfinfo.File // that is executed
	warm    bool          // its image is a warm one

	dir    string   // where it is made
	at     string   // where it will be
	others []string // where the layouts will be that a start may take instead of this one

	template *linkstop.Template // nil for a warm image
	deps     *fingerprint.Dependencies
	image    *criuwrap.Image
	plan     *plan.Plan
	planSize int    // encoded, bytes
	planSum  string // as in the record
}

// newLayout is the layout of this number, of which nothing is made yet.
func (a *adding) newLayout(number int) *layout {
	return &layout{store: a.store, id: a.id, program: a.program, dir: layoutDir(a.staging.Dir, number), at: layoutDir(a.store.ImageDir(a.id), number)}
}

// layoutDir is the directory of an image's layout: its own, or one below it.
func layoutDir(image string, number int) string {
	if number == 0 {
		return image
	}
	return filepath.Join(image, strconv.Itoa(number))
}

// layoutDirs are the directories of all layouts of an entry's image.
func layoutDirs(image string, rec *registry.Record) (dirs []string) {
	for number := range min(rec.LayoutCount(), MaxLayouts*len(streams)) {
		dirs = append(dirs, layoutDir(image, number))
	}
	return dirs
}

// planName is a plan's name in its layout's directory.
func planName(s *store.Store) string { return filepath.Base(s.PlanPath("")) }

// unchanged is ErrChanged where a start would no longer find what was linked.
func (l *layout) unchanged() error {
	if reasons := l.deps.Stale(); len(reasons) > 0 {
		return fmt.Errorf("%w: %s", fingerprint.ErrChanged, reasons[0])
	}
	return nil
}

// explained is the error of making an image, or ErrChanged in its place, which explains whatever
// it was.
func (l *layout) explained(ctx context.Context, err error) error {
	if changed := l.unchanged(); changed != nil && ctx.Err() == nil {
		return changed
	}
	return err
}

// planFrom compiles what source has put together.
func (l *layout) planFrom(src *plan.Source) (*plan.Plan, error) {
	pages, err := os.Open(l.image.PagesPath)
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	src.Pages = pages
	return plan.Compile(src)
}

// launcherPlace is plan.LauncherPlace for an image with these layouts.
func launcherPlace(layouts []*layout) uint64 {
	var plans []*plan.Plan
	size := 0
	for _, l := range layouts {
		plans = append(plans, l.plan)
		size = max(size, l.planSize)
	}
	return plan.LauncherPlace(size, plans...)
}

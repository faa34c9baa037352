package fingerprint

import (
	"context"
	"fmt"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

// maxTick is the longest time for which the kernel stamps files alike, and
// longer than what a tick lasts: 10 ms with CONFIG_HZ=100.
const maxTick = 20 * time.Millisecond

// Settle makes sure that whatever changes after it returns is noticed.
//
// The kernel stamps a file from a clock that moves at each timer tick
// (fs/inode.c, current_time; kernel/time/timekeeping.c,
// ktime_get_coarse_real_ts64): two changes within one tick, up to 10 ms, leave
// the same times. Since Linux 6.13 file systems with multigrain timestamps
// (ext4, xfs, btrfs, tmpfs) give a change a finer stamp of its own if a process
// has looked since the last one (fs/inode.c, inode_set_ctime_current); others,
// such as overlay and network ones, still do not.
//
// So where a recorded time is not yet older than that clock, Settle waits until
// it is, at most 20 ms, and then looks at and reads that file again. What
// differs is ErrChanged. A time in the future, from a clock that was set back,
// is not waited for: a change would be stamped with an earlier time.
func Settle(ctx context.Context, d *Dependencies) error {
	now, err := linux.CoarseNow()
	if err != nil {
		return err
	}
	racy := func(id linux.FileID) bool {
		return id.Ctime >= now && id.Ctime < now+int64(maxTick)
	}
	var files []*File
	var last int64
	for _, f := range d.files() {
		if racy(f.ID) {
			files, last = append(files, f), max(last, f.ID.Ctime)
		}
	}
	var checks []Checked
	for _, c := range d.Checks {
		if racy(c.ID) {
			checks, last = append(checks, c), max(last, c.ID.Ctime)
		}
	}
	var directories []Directory
	for _, f := range d.Directories {
		if racy(f.ID) {
			directories, last = append(directories, f), max(last, f.ID.Ctime)
		}
	}
	if last == 0 {
		return nil
	}
	if err := waitUntilAfter(ctx, last); err != nil {
		return err
	}
	return confirm(files, checks, directories)
}

// waitUntilAfter returns when the kernel no longer stamps files with t.
func waitUntilAfter(ctx context.Context, t int64) error {
	for end := time.Now().Add(maxTick); time.Now().Before(end); {
		now, err := linux.CoarseNow()
		if err != nil || now > t {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// confirm looks again at what was recorded while it could change unnoticed.
func confirm(files []*File, checks []Checked, directories []Directory) error {
	for _, f := range files {
		now, err := readFile(f.Path)
		if err != nil {
			return err
		}
		if now != *f {
			return fmt.Errorf("%s %w", f.Path, ErrChanged)
		}
	}
	for _, c := range checks {
		if staleCheck(c, nil) != "" || len(c.Answers) > 0 && staleAnswers(c) != "" {
			return fmt.Errorf("%s %w", c.Path, ErrChanged)
		}
	}
	for _, f := range directories {
		if f.Exact && !f.unchanged() {
			return fmt.Errorf("%s %w", f.Path, ErrChanged)
		}
		for _, miss := range f.Misses {
			if exists(miss) {
				return fmt.Errorf("%s %w: it was not there", miss, ErrChanged)
			}
		}
	}
	return nil
}

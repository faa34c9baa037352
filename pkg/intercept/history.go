package intercept

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/store"
)

// A History is how often programs were started under exec --auto, in one command and
// those before it. A store keeps it in its note NoteStarts, so that programs of commands
// that end before anything can be made become resident too.
type History map[linux.Inode]*Past

// Past is how often a program was started.
type Past struct {
	Path     string
	Resident int
	Normal   int // since it was last tried to make it resident
	Failed   int // how often in a row that has failed
}

// Bounds of a history. One that becomes too large loses the programs that were started
// least, and with too many starts all are halved, so that what was done lately counts more.
const (
	maxPast       = 512
	maxPastStarts = 100_000
	maxPatience   = 10 // how often a failure doubles the number of starts until the next try
)

// historyHead begins the file, and names its format.
const historyHead = "starts 1\n"

var errHistory = errors.New("not a list of starts")

// ParseHistory reads what Encode wrote. Anything else is an error, and an empty history:
// the file is not brought to the disk, so that the end of it may be missing after a crash.
func ParseHistory(data []byte) (History, error) {
	h := History{}
	lines, ok := bytes.CutPrefix(data, []byte(historyHead))
	if !ok {
		return h, errHistory
	}
	for line := range strings.Lines(string(lines)) {
		b, p, ok := parsePast(line)
		if !ok || h[b] != nil || len(h) == maxPast {
			return History{}, errHistory
		}
		h[b] = p
	}
	return h, nil
}

func parsePast(line string) (b linux.Inode, p *Past, ok bool) {
	words := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5)
	if len(words) != 5 || !strings.HasSuffix(line, "\n") {
		return b, nil, false
	}
	var n [3]int
	for i := range n {
		v, err := strconv.ParseUint(words[i], 10, 31)
		if err != nil {
			return b, nil, false
		}
		n[i] = int(v)
	}
	b, ok = linux.ParseInode(words[3])
	path, err := strconv.Unquote(words[4])
	return b, &Past{Path: path, Resident: n[0], Normal: n[1], Failed: n[2]}, ok && err == nil
}

// Encode returns the history as text: a line for each program, the most used first.
func (h History) Encode() []byte {
	var out bytes.Buffer
	out.WriteString(historyHead)
	for _, b := range h.byUse() {
		p := h[b]
		fmt.Fprintf(&out, "%d %d %d %s %q\n", p.Resident, p.Normal, p.Failed, b, p.Path)
	}
	return out.Bytes()
}

// Uses returns how often the program was started, as far as that is known.
func (h History) Uses(b linux.Inode) int {
	if p := h[b]; p != nil {
		return p.Resident + p.Normal
	}
	return 0
}

func (h History) byUse() []linux.Inode {
	return slices.SortedFunc(maps.Keys(h), func(a, b linux.Inode) int {
		return cmp.Or(h.Uses(b)-h.Uses(a), cmp.Compare(h[a].Path, h[b].Path), strings.Compare(a.String(), b.String()))
	})
}

// Add counts the starts of one more command.
func (h History) Add(programs map[linux.Inode]*Starts) {
	for b, s := range programs {
		if s.Path == "" || s.Resident+s.Normal == 0 {
			continue
		}
		p := h[b]
		if p == nil {
			p = &Past{}
			h[b] = p
		}
		p.Path = s.Path
		p.Resident = min(p.Resident+s.Resident, maxPastStarts)
		p.Normal = min(p.Normal+s.Normal, maxPastStarts)
	}
	h.trim()
}

func (h History) trim() {
	total := 0
	for b := range h {
		total += h.Uses(b)
	}
	for ; total > maxPastStarts; total /= 2 {
		for b, p := range h {
			if p.Resident, p.Normal = p.Resident/2, p.Normal/2; h.Uses(b) == 0 {
				delete(h, b)
			}
		}
	}
	if all := h.byUse(); len(all) > maxPast {
		for _, b := range all[maxPast:] {
			delete(h, b)
		}
	}
}

// Tried notes that it was tried to make a program resident. After a failure the next try
// is due after twice as many normal starts.
func (h History) Tried(b linux.Inode, made bool) {
	p := h[b]
	if p == nil {
		return
	}
	p.Normal = 0
	if p.Failed++; made {
		p.Failed = 0
	}
}

// due reports whether a program that was started normally so often is to be made resident.
func (h History) due(b linux.Inode, normal, after int) bool {
	if p := h[b]; p != nil {
		normal >>= min(p.Failed, maxPatience)
	}
	return normal >= after
}

// Due returns the programs that are to be made resident, the most used first.
func (h History) Due(after int) (due []linux.Inode) {
	for _, b := range h.byUse() {
		if h.due(b, h[b].Normal, after) {
			due = append(due, b)
		}
	}
	return due
}

// ReadHistory returns the history that a store keeps. One that cannot be read is empty.
func ReadHistory(s *store.Store) History {
	data, err := s.ReadNote(store.NoteStarts)
	if err != nil {
		return History{}
	}
	h, _ := ParseHistory(data)
	return h
}

// historyPatience is how long a command's end may be held up by another process that
// changes the store. What cannot be noted by then is lost.
const historyPatience = 100 * time.Millisecond

// ChangeHistory changes the history that a store keeps.
func ChangeHistory(s *store.Store, change func(History)) error {
	ctx, cancel := context.WithTimeout(context.Background(), historyPatience)
	defer cancel()
	unlock, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	h := ReadHistory(s)
	change(h)
	return s.WriteNote(store.NoteStarts, h.Encode())
}

package intercept

import (
	"bytes"
	"io"
	"os"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
)

// Starts is how often a program was started.
type Starts struct {
	Path             string // as /proc/self/exe showed it last
	Resident, Normal int
	Unfit            int // normal whether it is resident or not, for what is in its environment
}

// A Counter reads the file in which starts are noted while it grows.
type Counter struct {
	file     *os.File
	rest     []byte // the beginning of a line
	Programs map[linux.Inode]*Starts
	Reasons  map[string]int // why starts were normal
}

// maxReasons is how many reasons are counted, which the command tree may make up.
const maxReasons = 64

// NewCounter makes the file, which only its owner may write, and reads it.
func NewCounter(path string) (*Counter, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &Counter{file: f, Programs: map[linux.Inode]*Starts{}, Reasons: map[string]int{}}, nil
}

// Close ends the reading.
func (c *Counter) Close() error { return c.file.Close() }

// Read takes in what has been noted since the last time. Lines that are none of
// the launcher's are passed over: the command tree may write to the file too.
func (c *Counter) Read() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.file.Read(buf)
		c.rest = append(c.rest, buf[:n]...)
		for {
			line, rest, ok := bytes.Cut(c.rest, []byte("\n"))
			if !ok {
				break
			}
			c.count(string(line))
			c.rest = rest
		}
		if len(c.rest) > len(buf) {
			c.rest = nil // no line is as long
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *Counter) count(line string) {
	if line == "" || !strings.ContainsRune("+-=", rune(line[0])) {
		return
	}
	what, path, _ := strings.Cut(line[1:], "\t")
	inode, reason, _ := strings.Cut(what, " ")
	b, ok := linux.ParseInode(inode)
	if !ok {
		return
	}
	s := c.Programs[b]
	if s == nil {
		s = &Starts{}
		c.Programs[b] = s
	}
	s.Path = path
	switch line[0] {
	case '+':
		s.Resident++
	case '-':
		s.Normal++
		c.because(reason)
	default:
		s.Unfit++
		c.because(reason + " is set")
	}
}

func (c *Counter) because(reason string) {
	if _, known := c.Reasons[reason]; known || len(c.Reasons) < maxReasons {
		c.Reasons[reason]++
	}
}

package linux

import (
	"io"
	"os"
)

// ReadTail reads the last limit bytes of a file, or all if it has fewer.
func ReadTail(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tail := make([]byte, min(st.Size(), limit))
	n, err := f.ReadAt(tail, st.Size()-int64(len(tail)))
	if err == io.EOF { // it has become shorter
		err = nil
	}
	return tail[:n], err
}

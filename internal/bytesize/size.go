// Package bytesize reads and writes numbers of bytes as people write limits of memory.
package bytesize

import (
	"errors"
	"strconv"
	"strings"
)

// Sizes that make sense as a limit. With less than the lower one hardly anything is linked.
const (
	Least = uint64(1) << 20
	Most  = uint64(1) << 50
)

// Parse returns a number of bytes, which may end in K, M or G for the powers of 1024.
func Parse(value string) (uint64, error) {
	digits, shift := value, 0
	if i := strings.IndexAny(value, "KMG"); i >= 0 && i == len(value)-1 {
		digits, shift = value[:i], 10*(1+strings.IndexByte("KMG", value[i]))
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > Most>>shift {
		return 0, errors.New("it must be a number of bytes, or one with K, M or G")
	}
	if n<<shift < Least {
		return 0, errors.New("it must be 1M or more")
	}
	return n << shift, nil
}

// Format returns what Parse understands, with M or G where that is exact, and "" for 0.
func Format(n uint64) string {
	switch {
	case n == 0:
		return ""
	case n%(1<<30) == 0:
		return strconv.FormatUint(n>>30, 10) + "G"
	case n%(1<<20) == 0:
		return strconv.FormatUint(n>>20, 10) + "M"
	}
	return strconv.FormatUint(n, 10)
}

package main

import (
	"errors"
	"strconv"
	"strings"
)

// memorySize is an option's value that is a number of bytes, as people write it: with K, M
// or G for the powers of 1024.
type memorySize uint64

// Sizes that make sense as a limit. With less than the lower one hardly anything is linked.
const (
	leastMemory = memorySize(1) << 20
	mostMemory  = memorySize(1) << 50
)

// Set is flag.Value's.
func (s *memorySize) Set(value string) error {
	digits, shift := value, 0
	if i := strings.IndexAny(value, "KMG"); i >= 0 && i == len(value)-1 {
		digits, shift = value[:i], 10*(1+strings.IndexByte("KMG", value[i]))
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > uint64(mostMemory)>>shift {
		return errors.New("it must be a number of bytes, or one with K, M or G")
	}
	size := memorySize(n) << shift
	if size < leastMemory {
		return errors.New("it must be 1M or more")
	}
	*s = size
	return nil
}

// String is flag.Value's.
func (s *memorySize) String() string {
	switch {
	case *s == 0:
	case *s%(1<<30) == 0:
		return strconv.FormatUint(uint64(*s)>>30, 10) + "G"
	case *s%(1<<20) == 0:
		return strconv.FormatUint(uint64(*s)>>20, 10) + "M"
	}
	return strconv.FormatUint(uint64(*s), 10)
}

package main

import "github.com/residentctl/residentctl/internal/bytesize"

// memorySize is an option's value that is a number of bytes.
type memorySize uint64

// Set is flag.Value's.
func (s *memorySize) Set(value string) error {
	n, err := bytesize.Parse(value)
	if err == nil {
		*s = memorySize(n)
	}
	return err
}

// String is flag.Value's.
func (s *memorySize) String() string { return bytesize.Format(uint64(*s)) }

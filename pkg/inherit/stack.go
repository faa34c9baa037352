package inherit

import (
	"encoding/binary"
	"fmt"

	"github.com/residentctl/residentctl/internal/linux"
)

// vectors are what an initial stack is made from.
type vectors struct {
	argv, env []string
	execfn    string     // AT_EXECFN
	platform  string     // AT_PLATFORM
	random    [16]byte   // AT_RANDOM
	auxv      linux.Auxv // the entries that are on it get their addresses
	shift     uint64     // bytes that are left free between the strings and what is below
}

// A stack is an initial stack.
type stack struct {
	linux.InitialStack
	block []byte // from SP up to End

	// Where the strings are: each begins with the first and ends after the last one.
	argStart, argEnd, envStart, envEnd uint64
}

// stackAlign is the psABI's alignment of the initial stack pointer, in bytes.
const stackAlign = 16

// newStack makes an initial stack that ends at end, as execve(2) does: from the top one
// empty word, the path that was executed, the environment, the arguments (fs/exec.c,
// do_execveat_common), the platform's name, the random bytes, and the vectors
// (fs/binfmt_elf.c, create_elf_tables).
func newStack(end uint64, v vectors) (s stack, err error) {
	args, env := joined(v.argv), joined(v.env)
	name := append([]byte(v.execfn), make([]byte, 1+8)...)
	s.envEnd = end - uint64(len(name))
	s.envStart = s.envEnd - uint64(len(env))
	s.argEnd = s.envStart
	s.argStart = s.argEnd - uint64(len(args))

	platform := (s.argStart-v.shift)&^(stackAlign-1) - uint64(len(v.platform)+1)
	random := platform - uint64(len(v.random))
	words := v.words(s.argStart, s.envStart, map[uint64]uint64{
		linux.ATPlatform: platform, linux.ATRandom: random, linux.ATExecfn: s.envEnd,
	})
	sp := (random - uint64(len(words)*8)) &^ (stackAlign - 1)

	s.block = make([]byte, end-sp)
	for i, w := range words {
		binary.LittleEndian.PutUint64(s.block[i*8:], w)
	}
	copy(s.block[random-sp:], v.random[:])
	copy(s.block[platform-sp:], v.platform)
	copy(s.block[s.argStart-sp:], args)
	copy(s.block[s.envStart-sp:], env)
	copy(s.block[s.envEnd-sp:], name)
	if s.InitialStack, _, err = linux.ParseStack(sp, s.block); err != nil {
		return s, fmt.Errorf("make an initial stack: %w", err)
	}
	return s, nil
}

// words are argc and the three vectors, for strings that begin at these addresses. Of the
// auxiliary vector's entries those in at get their value from there.
func (v vectors) words(args, env uint64, at map[uint64]uint64) []uint64 {
	words := []uint64{uint64(len(v.argv))}
	for _, list := range []struct {
		at      uint64
		strings []string
	}{{args, v.argv}, {env, v.env}} {
		for _, s := range list.strings {
			words = append(words, list.at)
			list.at += uint64(len(s) + 1)
		}
		words = append(words, 0)
	}
	for _, e := range v.auxv {
		if addr, ok := at[e.Type]; ok {
			e.Value = addr
		}
		words = append(words, e.Type, e.Value)
	}
	return append(words, linux.ATNull, 0)
}

// joined are strings as they stand in memory.
func joined(strings []string) (b []byte) {
	for _, s := range strings {
		b = append(append(b, s...), 0)
	}
	return b
}

const (
	// What a stack has at once below its strings, in bytes (fs/exec.c, setup_arg_pages).
	stackExpand = 128 << 10
	// What the kernel keeps free below a stack, in bytes (mm/mmap.c, stack_guard_gap).
	stackGap = 256 * linux.PageSize
	pageMask = uint64(linux.PageSize - 1)
)

// low is where the mapping of the stack begins, under this soft RLIMIT_STACK, in bytes. A
// page of it is below what is used.
func (s *stack) low(limit uint64) uint64 {
	room := min(s.End-s.argStart&^pageMask+stackExpand, limit&^pageMask)
	return min(s.End-room, s.SP&^pageMask-linux.PageSize)
}

// fits refuses a stack that could not grow to its limit above what is mapped, as the
// launcher does (pkg/launcher/src/ask.c, ask_stack).
func (s *stack) fits(maps []linux.Mapping, limit uint64) error {
	floor := uint64(0)
	for _, m := range maps {
		if m.Path != stackName && m.Start < s.End {
			floor = max(floor, m.End)
		}
	}
	if limit > s.SP || s.SP-limit < floor+stackGap {
		return refuse("lower the limit: `ulimit -s 8192`", "the stack limit leaves no room beside the image")
	}
	return nil
}

// stackName is the initial stack's in /proc/PID/maps.
const stackName = "[stack]"

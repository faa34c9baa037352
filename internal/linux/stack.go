package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// InitialStack says where things are on a stack as execve made it (x86-64
// psABI, "Initial Stack and Register State"; create_elf_tables in the kernel's
// fs/binfmt_elf.c). A zero address is something that the kernel did not give.
type InitialStack struct {
	SP       uint64 // &argc
	Argc     uint64
	Argv     uint64 // &argv[0]
	Envp     uint64 // &envp[0]
	Auxv     uint64
	AuxvEnd  uint64 // after AT_NULL
	Platform uint64 // the string of AT_PLATFORM
	Random   uint64 // the 16 bytes of AT_RANDOM
	Execfn   uint64 // the string of AT_EXECFN
	End      uint64 // of the mapping
}

// Contains reports whether addr is on the part of the stack that is in use.
func (s *InitialStack) Contains(addr uint64) bool { return addr >= s.SP && addr < s.End }

// ParseStack reads block, the stack from sp up to the end of its mapping.
func ParseStack(sp uint64, block []byte) (InitialStack, Auxv, error) {
	s := InitialStack{SP: sp, End: sp + uint64(len(block))}
	word := func(i uint64) uint64 {
		if i >= uint64(len(block))/8 {
			return 0
		}
		return binary.LittleEndian.Uint64(block[i*8:])
	}
	words := uint64(len(block) / 8)
	s.Argc = word(0)
	if s.Argc >= words {
		return s, nil, errors.New("initial stack: argc is too large")
	}
	s.Argv = sp + 8
	i := 1 + s.Argc + 1
	s.Envp = sp + i*8
	for i < words && word(i) != 0 {
		i++
	}
	i++
	if i >= words {
		return s, nil, errors.New("initial stack: environment without end")
	}
	s.Auxv = sp + i*8
	auxv, err := ParseAuxv(block[i*8:])
	if err != nil {
		return s, nil, fmt.Errorf("initial stack: %w", err)
	}
	s.AuxvEnd = s.Auxv + uint64(len(auxv)+1)*16
	s.Platform = auxv.Value(ATPlatform)
	s.Random = auxv.Value(ATRandom)
	s.Execfn = auxv.Value(ATExecfn)
	if s.Random < s.AuxvEnd || s.Random+16 > s.End {
		return s, nil, errors.New("initial stack: AT_RANDOM is not on it")
	}
	return s, auxv, nil
}

// ReadStack parses the stack of a process at its exec stop, and also returns
// the bytes from sp up to its end.
func ReadStack(pid int, sp uint64, maps []Mapping) (InitialStack, Auxv, []byte, error) {
	m, ok := FindMapping(maps, sp)
	if !ok {
		return InitialStack{}, nil, nil, errors.New("the stack pointer points nowhere")
	}
	block := make([]byte, m.End-sp)
	if err := ReadMem(pid, sp, block); err != nil {
		return InitialStack{}, nil, nil, err
	}
	stack, auxv, err := ParseStack(sp, block)
	return stack, auxv, block, err
}

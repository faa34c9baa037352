package criuwrap

import (
	"fmt"
	"io/fs"
	"path"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
)

// The VMA_* bits of criu/include/image.h.
const (
	vmaRegular     = 1 << 0
	vmaStack       = 1 << 1
	vmaVSyscall    = 1 << 2
	vmaVDSO        = 1 << 3
	vmaHeap        = 1 << 5
	vmaFilePrivate = 1 << 6
	vmaFileShared  = 1 << 7
	vmaAnonShared  = 1 << 8
	vmaAnonPrivate = 1 << 9
	vmaVVar        = 1 << 12

	vmaFile  = vmaFilePrivate | vmaFileShared
	vmaKnown = vmaRegular | vmaStack | vmaVSyscall | vmaVDSO | vmaHeap | vmaFile |
		vmaAnonShared | vmaAnonPrivate | vmaVVar
)

// mapGrowsDown is mmap(2)'s MAP_GROWSDOWN. CRIU sets it where the kernel has
// VM_GROWSDOWN, and leaves vmaStack unset.
const mapGrowsDown = 0x100

// readMM reads mm-PID.img: images/mm.proto.
func (im *Image) readMM(fsys fs.FS, files map[uint32]string) error {
	name := fmt.Sprintf("mm-%d.img", im.PID)
	var m mm.MmEntry
	if err := one(fsys, name, magicMM, &m); err != nil {
		return err
	}
	exe := files[m.GetExeFileId()]
	if !path.IsAbs(exe) {
		return fmt.Errorf("%s: %w: no path for the program's file %#x", name, ErrFormat, m.GetExeFileId())
	}
	im.MM = MM{
		StartCode:  m.GetMmStartCode(),
		EndCode:    m.GetMmEndCode(),
		StartData:  m.GetMmStartData(),
		EndData:    m.GetMmEndData(),
		StartStack: m.GetMmStartStack(),
		StartBrk:   m.GetMmStartBrk(),
		Brk:        m.GetMmBrk(),
		ArgStart:   m.GetMmArgStart(),
		ArgEnd:     m.GetMmArgEnd(),
		EnvStart:   m.GetMmEnvStart(),
		EnvEnd:     m.GetMmEnvEnd(),
		SavedAuxv:  m.GetMmSavedAuxv(),
		ExeFile:    exe,
	}
	end := uint64(0)
	for i, entry := range m.GetVmas() {
		v, err := decodeVMA(entry, files)
		if err == nil && v.Start < end {
			err = fmt.Errorf("%w: it overlaps the one before", ErrFormat)
		}
		if err != nil {
			return fmt.Errorf("%s: mapping %d at %#x: %w", name, i, entry.GetStart(), err)
		}
		im.VMAs = append(im.VMAs, v)
		end = v.End
	}
	return nil
}

func decodeVMA(m *vma.VmaEntry, files map[uint32]string) (VMA, error) {
	status := m.GetStatus()
	v := VMA{
		Start: m.GetStart(),
		End:   m.GetEnd(),
		Prot:  m.GetProt(),
		Flags: m.GetFlags(),

		File:     status&vmaFile != 0,
		Anon:     status&(vmaAnonPrivate|vmaAnonShared) != 0,
		Shared:   status&(vmaFileShared|vmaAnonShared) != 0,
		Stack:    status&vmaStack != 0 || m.GetFlags()&mapGrowsDown != 0,
		Heap:     status&vmaHeap != 0,
		VDSO:     status&vmaVDSO != 0,
		VVar:     status&vmaVVar != 0,
		VSyscall: status&vmaVSyscall != 0,
		Special:  status&^vmaKnown != 0,
	}
	if v.Start >= v.End || v.Start%PageSize != 0 || v.End%PageSize != 0 {
		return VMA{}, fmt.Errorf("%w: it ends at %#x", ErrFormat, v.End)
	}
	if !v.File {
		return v, nil
	}
	if v.Anon {
		return VMA{}, fmt.Errorf("%w: both a file's and anonymous", ErrFormat)
	}
	// CRIU keeps the file's id in shmid, and the offset in bytes
	// (proc_parse.c, files-reg.c).
	v.Offset = m.GetPgoff()
	if v.Offset%PageSize != 0 || v.Offset+(v.End-v.Start) < v.Offset {
		return VMA{}, fmt.Errorf("%w: file offset %#x", ErrFormat, v.Offset)
	}
	if id := m.GetShmid(); id <= 1<<32-1 {
		v.Path = files[uint32(id)]
	}
	if v.Path == "" && !v.Special {
		return VMA{}, fmt.Errorf("%w: no path for its file %#x", ErrFormat, m.GetShmid())
	}
	return v, nil
}

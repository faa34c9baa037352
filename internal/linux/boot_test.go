package linux

import (
	"math"
	"testing"
)

func TestBootIDIsStable(t *testing.T) {
	first, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := BootID(); again != first {
		t.Errorf("BootID: %q, then %q", first, again)
	}
}

func TestBootMark(t *testing.T) {
	mark := BootMark(0)
	if mark == 0 {
		t.Fatal("this boot has none: is /dev not in memory?")
	}
	if again := BootMark(0); again != mark {
		t.Errorf("%#x, then %#x", mark, again)
	}
	if late := BootMark(math.MaxInt64); late != 0 {
		t.Errorf("%#x, with a clock that may have been set back", late)
	}
	id, err := StatID(bootNode)
	if err != nil || markOf(id, 0) != mark {
		t.Errorf("%+v, %v", id, err)
	}
	for name, change := range map[string]func(*FileID){
		"device": func(id *FileID) { id.Dev++ }, "inode": func(id *FileID) { id.Ino++ },
		"mtime": func(id *FileID) { id.Mtime++ }, "ctime": func(id *FileID) { id.Ctime++ },
	} {
		other := id
		change(&other)
		if markOf(other, 0) == mark {
			t.Errorf("another %s, the same mark", name)
		}
	}
	if min(id.Mtime, id.Ctime) != id.Mtime || markOf(id, id.Mtime) != 0 || markOf(id, id.Mtime-1) != mark {
		t.Errorf("%+v: the clock was right only if it was later than the file", id)
	}
}

package criuwrap

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"google.golang.org/protobuf/proto"
)

// withoutSession makes a directory below workDir that holds the image in imagesDir by
// symbolic links, except that its process leads no session and no process group. As a
// shell job such a process gets CRIU's own (criu/pstree.c,
// prepare_pstree_for_shell_job), and CRIU's are this process's.
func withoutSession(imagesDir, workDir string) (string, error) {
	entries, err := os.ReadDir(imagesDir)
	if err != nil {
		return "", err
	}
	if imagesDir, err = filepath.Abs(imagesDir); err != nil {
		return "", err
	}
	dir := filepath.Join(workDir, "images")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	for _, e := range entries {
		if name := e.Name(); e.Type().IsRegular() && name != pstreeName {
			if err := os.Symlink(filepath.Join(imagesDir, name), filepath.Join(dir, name)); err != nil {
				return "", err
			}
		}
	}
	tree, err := leaderless(imagesDir)
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, pstreeName), tree, 0o600)
}

// leaderless is the pstree.img of an image, with a process whose session and process
// group are others'. Which ones does not matter: CRIU replaces both.
func leaderless(imagesDir string) ([]byte, error) {
	var m pstree.PstreeEntry
	if err := one(os.DirFS(imagesDir), pstreeName, magicPstree, &m); err != nil {
		return nil, err
	}
	const another = 1 // never that of a dumped process
	m.Sid, m.Pgid = proto.Uint32(another), proto.Uint32(another)
	record, err := proto.Marshal(&m)
	if err != nil {
		return nil, err
	}
	file := binary.LittleEndian.AppendUint32(nil, magicCommon)
	file = binary.LittleEndian.AppendUint32(file, magicPstree)
	file = binary.LittleEndian.AppendUint32(file, uint32(len(record)))
	return append(file, record...), nil
}

package launcher

// Covers tells what Cover was given for a dynamic linker; ok is false if it has made
// none of this.
func Covers(linker []byte) (o CoverOptions, ok bool) { return coverOptions(linker) }

package launcher

import "strings"

// KeepsNormal reports whether a variable of the environment, as NAME=VALUE, makes every
// start a normal one. It is what the launcher asks (src/caller.c, ask_environment).
func KeepsNormal(variable string) bool {
	for _, prefix := range []string{"LD_", "GLIBC_TUNABLES=", "MALLOC_"} {
		if strings.HasPrefix(variable, prefix) {
			return true
		}
	}
	off, ok := strings.CutPrefix(variable, "RESIDENTCTL_OFF=")
	return ok && off != "" && off != "0"
}

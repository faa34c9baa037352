package intercept

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// Execute executes the program in this process's place; a file that the
// kernel does not know is /bin/sh's to read, as execvp(3) has it. It returns
// only the error.
func Execute(program string, argv []string) error {
	err := syscall.Exec(program, argv, Environment())
	if errors.Is(err, syscall.ENOEXEC) {
		err = syscall.Exec("/bin/sh", append([]string{"/bin/sh", program}, argv[1:]...), Environment())
	}
	return err
}

// Environment returns this process's environment as it was handed over. os.Environ
// would leave out the second one of two variables with the same name.
func Environment() []string {
	data, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return os.Environ()
	}
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

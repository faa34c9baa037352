package warm

import (
	"slices"
	"strings"

	"github.com/residentctl/residentctl/pkg/plan"
)

// given are the variables that a template gets of its maker's environment, beside what is
// compared and what the program was seen to read.
var given = []string{"PATH", "USER", "LOGNAME", "TZ", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}

// compared are the variables that a start always compares, whether or not the program was seen
// to read them: those that the interpreter, the C library and the libraries that python's
// modules load read when they start. Each is the beginning of a variable's string.
var compared = []string{
	"HOME=",                               // site.py, getuserbase
	"LANG",                                // setlocale(3), and LANGUAGE
	"LC_",                                 // setlocale(3)
	"LOCPATH=", "NLSPATH=", "GCONV_PATH=", // glibc's environ(7) names
	"PYTHON",           // Python/initconfig.c; but not PYTHONSTARTUP alone
	"OPENSSL_", "SSL_", // openssl-env(7)
	"OPENBLAS_", "GOTO_", "OMP_", "MKL_", "KMP_", "BLIS_", "NPY_", // numerical libraries
}

// isCompared reports whether a variable, NAME=value, is always compared.
func isCompared(v string) bool {
	return slices.ContainsFunc(compared, func(c string) bool { return strings.HasPrefix(v, c) })
}

// Environment returns what of an environment a template gets.
func Environment(own, read []string) []string {
	var env []string
	for _, v := range own {
		name, _, isVariable := strings.Cut(v, "=")
		if isVariable && (slices.Contains(given, name) || isCompared(v) || slices.Contains(read, name)) && !strings.HasPrefix(name, "RESIDENTCTL_") {
			env = append(env, v)
		}
	}
	return env
}

// Checks returns what a start compares of the environment: what a template with the environment
// env has read of it, and what is always compared.
func Checks(env []string, read []string) []plan.EnvCheck {
	var exact, prefixes []plan.EnvCheck
	matters := func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(read, name) || isCompared(v)
	}
	for _, v := range env {
		if matters(v) {
			exact = append(exact, plan.EnvCheck{Text: v, Kind: plan.EnvExact})
		}
	}
	for _, c := range compared {
		prefixes = append(prefixes, plan.EnvCheck{Text: c, Kind: plan.EnvPrefix})
	}
	for _, name := range read {
		isSet := slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		if !isCompared(name+"=") && !isSet {
			prefixes = append(prefixes, plan.EnvCheck{Text: name + "=", Kind: plan.EnvPrefix})
		}
	}
	return append(exact, prefixes...)
}

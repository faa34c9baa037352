// Command planheader writes the C header that describes the plan to the
// launcher, from the Go structs that are the format.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"
	"unicode"

	"github.com/residentctl/residentctl/pkg/plan"
)

func main() {
	out := flag.String("o", "", "the header's `file`")
	flag.Parse()
	if err := os.WriteFile(*out, []byte(header()), 0o644); err != nil {
		log.Fatal(err)
	}
}

func header() string {
	var b strings.Builder
	b.WriteString("/* Written by planheader from pkg/plan/format.go, where the words are explained. */\n")
	for _, c := range []struct {
		name  string
		value int
	}{
		{"VERSION", plan.Version}, {"KIND_LINKED", plan.KindLinked}, {"KIND_WARM", plan.KindWarm},
		{"FLAG_CHECK_EXEC", plan.FlagCheckExec}, {"FLAG_KEEP_BRK", plan.FlagKeepBrk}, {"FLAG_OWN_PATH", plan.FlagOwnPath},
		{"FLAG_NEEDS_EXE", plan.FlagNeedsExe},
		{"FLAG_SET_EXE", plan.FlagSetExe}, {"FLAG_PROGRAM_ARG", plan.FlagProgramArg},
		{"FILE_PROGRAM", plan.FileProgram}, {"FILE_PAGES", plan.FilePages}, {"FILE_LINKER", plan.FileLinker},
		{"FILE_EXE", plan.FileExe}, {"DIRECTORY_EXACT", plan.DirectoryExact}, {"ENV_EXACT", plan.EnvExact}, {"ENV_PREFIX", plan.EnvPrefix},
		{"START_EXPLAIN", plan.StartExplain}, {"START_STRICT", plan.StartStrict},
		{"UMASK_COMPARED", plan.UmaskCompared},
		{"FIX_SP", plan.FixSP}, {"FIX_ARGV", plan.FixArgv}, {"FIX_ENVP", plan.FixEnvp},
		{"FIX_AUXV", plan.FixAuxv}, {"FIX_PLATFORM", plan.FixPlatform}, {"FIX_RANDOM", plan.FixRandom},
		{"FIX_EXECFN", plan.FixExecfn}, {"FIX_ARGC", plan.FixArgc}, {"FIX_TID", plan.FixTID},
		{"FIX_CANARY", plan.FixCanary}, {"FIX_GUARD", plan.FixGuard}, {"FIX_STACK_SIZE", plan.FixStackSize},
		{"FIX_IGNORED", plan.FixIgnored}, {"FIX_FLAGS", plan.FixFlags},
		{"FIX_KINDS", plan.FixKinds},
	} {
		fmt.Fprintf(&b, "#define PLAN_%s %d\n", c.name, c.value)
	}
	fmt.Fprintf(&b, "#define PLAN_MAGIC 0x%016xULL\n", magic())
	for _, v := range []any{plan.Table{}, plan.FileID{}, plan.Caller{}, plan.VDSO{}, plan.MM{}, plan.Kernel{}, plan.Entry{}, plan.Stop{}, plan.Warm{},
		plan.Header{}, plan.File{}, plan.Map{}, plan.Protect{}, plan.Fixup{}, plan.Check{}, plan.Answer{}, plan.CacheEntry{}, plan.Directory{}, plan.CPUID{},
		plan.Variable{}, plan.SignalAction{}} {
		structure(&b, reflect.TypeOf(v))
	}
	return b.String()
}

func magic() (m uint64) {
	for i, c := range []byte(plan.Magic) {
		m |= uint64(c) << (8 * i)
	}
	return m
}

// structure writes one struct and the assertions that hold its layout.
func structure(b *strings.Builder, t reflect.Type) {
	name := "struct plan_" + snake(t.Name())
	fmt.Fprintf(b, "\n%s {\n", name)
	for i := range t.NumField() {
		f := t.Field(i)
		field := snake(f.Name)
		if f.Name == "_" {
			field = fmt.Sprintf("pad%d", i)
		}
		fmt.Fprintf(b, "\t%s;\n", declare(f.Type, field))
	}
	fmt.Fprintf(b, "};\n_Static_assert(sizeof(%s) == %d, \"size\");\n", name, t.Size())
	for i := range t.NumField() {
		if f := t.Field(i); f.Name != "_" {
			fmt.Fprintf(b, "_Static_assert(__builtin_offsetof(%s, %s) == %d, \"%s\");\n", name, snake(f.Name), f.Offset, f.Name)
		}
	}
}

func declare(t reflect.Type, name string) string {
	switch t.Kind() {
	case reflect.Uint8:
		return "unsigned char " + name
	case reflect.Uint32:
		return "u32 " + name
	case reflect.Uint64:
		return "u64 " + name
	case reflect.Int64:
		return "s64 " + name
	case reflect.Array:
		return fmt.Sprintf("%s[%d]", declare(t.Elem(), name), t.Len())
	case reflect.Struct:
		return "struct plan_" + snake(t.Name()) + " " + name
	}
	panic("no C type for " + t.String())
}

// snake turns a Go name into a C one: FirstMap into first_map, RseqAddr into
// rseq_addr, R12 into r12, HWCap2 into hw_cap2, CPUs into cpus.
func snake(s string) string {
	var b strings.Builder
	r := []rune(s)
	for i, c := range r {
		plural := i+1 < len(r) && r[i+1] == 's' && (i+2 == len(r) || unicode.IsUpper(r[i+2]))
		if i > 0 && unicode.IsUpper(c) && (unicode.IsLower(r[i-1]) || i+1 < len(r) && !plural && unicode.IsLower(r[i+1]) && unicode.IsUpper(r[i-1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

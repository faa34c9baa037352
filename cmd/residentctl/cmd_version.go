package main

import (
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/launcher/front"
)

func newVersionCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "show the versions of residentctl, CRIU and the kernel",
		Description: `With --format json, "output" is the version of the JSON that all commands print; its
schema is docs/output.schema.json. The version is raised when a field is removed or
changes its meaning, not when a field is added.`,
		Flags:              []cli.Flag{g.formatFlag()},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitUsage),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("version", "version takes no arguments, and %q is one", c.Args().First())
			}
			return printVersions(g, findVersions())
		},
	}
}

// versions is what a report of a fault should begin with.
type versions struct {
	Residentctl string `json:"residentctl"`
	Go          string `json:"go"`
	CRIU        string `json:"criu"`
	Kernel      string `json:"kernel"`
	FrontDoor   bool   `json:"front_door"` // scripts/build has made it
	Output      int    `json:"output"`     // outputVersion
}

func findVersions() versions {
	return versions{
		Residentctl: moduleVersion(), Go: runtime.Version(), CRIU: criuVersion(), Kernel: kernelVersion(),
		FrontDoor: front.Entered(), Output: outputVersion,
	}
}

func printVersions(g *globals, v versions) error {
	if g.format == formatJSON {
		return g.printJSON(v)
	}
	g.printf("residentctl version %s\ngo:     %s\ncriu:   %s\nkernel: %s\n",
		v.Residentctl, v.Go, printable(v.CRIU), printable(v.Kernel))
	if !v.FrontDoor {
		g.printf("%s; %s\n", withoutFrontDoor, useBuild)
	}
	return nil
}

// What is said of a residentctl that is linked without the front door: its `run` is
// slower, and its `exec` loses the signals that the caller blocks or ignores.
const (
	withoutFrontDoor = "built without the front door"
	useBuild         = "use scripts/build"
)

// version is set by scripts/build (go tool link, -X), to what scripts/version prints.
var version string

// moduleVersion is residentctl's version: of another build than that of scripts/build,
// what the Go command knows of the module.
func moduleVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

func criuVersion() string {
	path, err := criuwrap.Find()
	if err != nil {
		return err.Error()
	}
	v, err := criuwrap.Version(path)
	if err != nil {
		return err.Error()
	}
	return v.String() + " (" + path + ")"
}

func kernelVersion() string {
	v, err := linux.Kernel()
	if err != nil {
		return err.Error()
	}
	return v
}

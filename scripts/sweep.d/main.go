// Command sweep.d is scripts/sweep: see package sweep.
package main

import (
	"os"

	"github.com/residentctl/residentctl/internal/sweep"
)

func main() { os.Exit(sweep.Main(os.Args[1:])) }

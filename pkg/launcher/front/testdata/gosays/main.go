// Command gosays has the front door and, after it, a Go program that says
// what has reached it.
package main

import (
	"fmt"
	"os"

	_ "github.com/residentctl/residentctl/pkg/launcher/front"
)

func main() {
	fmt.Printf("go %q %q\n", os.Args[1:], os.Environ())
}

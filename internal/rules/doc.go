// Package rules holds the tests of what is true of the whole tree, such as which
// package may import which.
package rules

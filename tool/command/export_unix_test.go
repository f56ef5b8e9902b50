//go:build unix

package command

// OpenBeneath opens a file as the standard input is opened.
var OpenBeneath = openBeneath

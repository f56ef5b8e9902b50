//go:build unix && !linux

package control_test

func dialAs(string) int { return 1 }

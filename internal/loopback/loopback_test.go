package loopback_test

import (
	"testing"

	"github.com/converge-agents/converge/internal/loopback"
)

func TestThisMachineIsLoopback(t *testing.T) {
	for _, host := range []string{
		"localhost", "LocalHost",
		"127.0.0.1", "127.0.0.2", "127.255.255.255",
		"::1", "0:0:0:0:0:0:0:1",
		"::ffff:127.0.0.1", "::ffff:7f00:1", // IPv4 written as IPv6
	} {
		if !loopback.Is(host) {
			t.Errorf("%q is this machine", host)
		}
	}
}

func TestWhatMayBeAnotherMachineIsNotLoopback(t *testing.T) {
	for _, host := range []string{
		"", "0.0.0.0", "::", "::ffff:0.0.0.0", "*", // all addresses, to those who listen
		"localhost.", "localhost.example", "a.localhost", " localhost", "localhost:80", "localhost\x00", "localhost6", "ip6-localhost",
		"localho\u017ft", // the long s, which is an s without its case
		"::1%lo", "::1%eth0", "fe80::1%lo", "::ffff:127.0.0.1%lo",
		"127.1", "127.0.1", "127", "2130706433", "0x7f000001", "0x7f.0.0.1", // programs read them differently
		"0177.0.0.1", "017700000001", "127.0.0.01", "127.00.0.1",
		"127.0.0.1.", "127.0.0.1 ", "127.0.0.256", "127.0.0.1:80", "[::1]", "127.0.0.1.example",
		"::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::2", "::ffff:128.0.0.1", // IPv4 within other IPv6
		"10.0.0.1", "192.168.0.1", "169.254.169.254", "126.255.255.255", "128.0.0.1", "example.org",
	} {
		if loopback.Is(host) {
			t.Errorf("%q may be another machine", host)
		}
	}
}

//go:build !(darwin || freebsd || linux)

package control

import "net"

func peerOf(*net.UnixConn) (peer, error) { return peer{}, errNoPeer }

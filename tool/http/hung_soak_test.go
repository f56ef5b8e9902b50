//go:build soak

package http_test

const hungServers = 1000

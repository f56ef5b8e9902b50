//go:build !soak

package http_test

const hungServers = 200 // 1,000 with the tag soak, which need 2,100 descriptors

//go:build !unix

package wasm

const nonblock = 0

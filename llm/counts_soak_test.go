//go:build soak

package llm_test

const eachFormat = true

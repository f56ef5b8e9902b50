//go:build !soak

package llm_test

const eachFormat = false // whether every attempt of the corpus is made through both providers

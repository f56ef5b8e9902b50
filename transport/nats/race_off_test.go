//go:build soak && !race

package nats_test

const raceDetector = false

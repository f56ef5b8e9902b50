package main

import (
	"testing"

	"github.com/converge-agents/converge/audit"
)

func TestIDsNameReceiptsByNumberAndByTheBeginningOfWhatTheyAreAbout(t *testing.T) {
	t.Parallel()
	entry := &audit.Entry{Seq: 42, Receipt: audit.Receipt{Subject: "90441207c0ffee"}}
	for id, want := range map[string]bool{
		"42": true, "#42": true, "7": false, "": false, "#": false,
		"90441207": true, "90441207c0ffee": true, "#90441207": false, "90441": false, "441207": false,
	} {
		if got := isOf(id)(entry); got != want {
			t.Errorf("%q: %v, want %v", id, got, want)
		}
	}
}

package main

import "testing"

func TestEveryContenderCarriesEveryMessage(t *testing.T) {
	for _, c := range contenders {
		t.Run(c.name, func(t *testing.T) {
			f, err := once(t.Context(), c, load{messages: 1003, size: 64, senders: 4})
			if err != nil || f.perSecond <= 0 {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
}

func TestMedian(t *testing.T) {
	for want, values := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 3, 2}, 7: {7}} {
		if got := median(values); got != want {
			t.Errorf("median of %v: %v, want %v", values, got, want)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	good := load{messages: 1000, size: 256, senders: 4}
	if err := check(good, 1); err != nil {
		t.Error(err)
	}
	for _, l := range []load{{messages: 999, size: 256}, {messages: 1000, size: 15}, {messages: 1000, size: 1 << 20}} {
		if check(l, 1) == nil {
			t.Errorf("%+v is accepted", l)
		}
	}
	if check(good, 0) == nil || check(good, 101) == nil {
		t.Error("any number of rounds is accepted")
	}
}

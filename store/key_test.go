package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/store"
)

func ExampleKey() {
	fmt.Println(store.Key("task", "../../etc/passwd"))
	fmt.Println(store.Key("pool", "émigrés", ""))
	parts, err := store.SplitKey("task/..=2F..=2Fetc=2Fpasswd")
	fmt.Printf("%q %v\n", parts, err)
	// Output:
	// task/..=2F..=2Fetc=2Fpasswd
	// pool/=C3=A9migr=C3=A9s/=
	// ["task" "../../etc/passwd"] <nil>
}

func TestCheckKey(t *testing.T) {
	long := strings.Repeat("k", store.MaxKey)
	for _, key := range []string{"a", "a/b", "a.b/c_d-e=2F", "..a", "a..", "=", "...x/y", long} {
		if err := store.CheckKey(key); err != nil {
			t.Errorf("CheckKey(%q) = %v", key, err)
		}
	}
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/...", "a b", "a\x00", "a\\b", "é", "a*", long + "k",
	} {
		if err := store.CheckKey(key); !errors.Is(err, store.ErrInvalidKey) {
			t.Errorf("CheckKey(%q) = %v, want ErrInvalidKey", key, err)
		}
	}
}

func TestCheckPrefix(t *testing.T) {
	long := strings.Repeat("k", store.MaxKey)
	for _, prefix := range []string{"", "a", "a/", "a/.", "a/..", long, long[1:] + "/"} {
		want := !strings.HasSuffix(prefix, "k/") // a full key has no room for what must follow
		if err := store.CheckPrefix(prefix); (err == nil) != want {
			t.Errorf("CheckPrefix(%q) = %v", prefix, err)
		}
	}
	for _, prefix := range []string{"/", "a//", "a/../", "./", "a b", long + "k"} {
		if err := store.CheckPrefix(prefix); !errors.Is(err, store.ErrInvalidKey) {
			t.Errorf("CheckPrefix(%q) = %v, want ErrInvalidKey", prefix, err)
		}
	}
}

func TestHostilePartsMakeDistinctValidKeys(t *testing.T) {
	lists := [][]string{
		{""}, {"", ""}, {"="}, {"=2F"}, {"/"}, {"."}, {".."}, {"..."}, {"a", "b"}, {"a/b"}, {"a=2Fb"},
		{"\x00"}, {"é"}, {"\xff"}, {"a\nb"}, {"A"}, {"a"}, {"=="}, {"=3D"}, {"%2F"}, {"*"}, {">"},
	}
	seen := map[string][]string{}
	for _, parts := range lists {
		key := store.Key(parts...)
		if err := store.CheckKey(key); err != nil {
			t.Errorf("Key(%q) = %q: %v", parts, key, err)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("Key(%q) and Key(%q) are both %q", parts, other, key)
		}
		seen[key] = parts
		if got, err := store.SplitKey(key); err != nil || !slices.Equal(got, parts) {
			t.Errorf("SplitKey(%q) = %q, %v, want %q", key, got, err, parts)
		}
	}
}

func TestKeyIsReversible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.OneOf(rapid.String(), rapid.StringMatching(`[./=A-F0-9a]{0,6}`)).Filter(func(s string) bool { return len(s) < 40 })
		parts := rapid.SliceOfN(part, 1, 4).Draw(t, "parts")
		got, err := store.SplitKey(store.Key(parts...))
		if err != nil || !slices.Equal(got, parts) {
			t.Fatalf("SplitKey(Key(%q)) = %q, %v", parts, got, err)
		}
	})
}

func FuzzSplitKey(f *testing.F) {
	for _, key := range []string{"task/a", "=", "a=2Fb/=", "a=2fb", "=2E=2E", "a//b", "=4", "=41"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		parts, err := store.SplitKey(key)
		if err != nil {
			if !errors.Is(err, store.ErrInvalidKey) {
				t.Errorf("SplitKey(%q) = %v, want ErrInvalidKey", key, err)
			}
			return
		}
		if again := store.Key(parts...); again != key {
			t.Errorf("SplitKey(%q) = %q, whose key is %q", key, parts, again)
		}
		if err := store.CheckKey(key); err != nil {
			t.Errorf("SplitKey accepts %q: %v", key, err)
		}
	})
}

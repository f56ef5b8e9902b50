package cose_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/internal/cose"
)

func leavesOf(n int) []cose.Hash {
	leaves := make([]cose.Hash, n)
	for i := range leaves {
		leaves[i] = sha256.Sum256([]byte{byte(i), byte(i >> 8)})
	}
	return leaves
}

func treeOf(leaves []cose.Hash) *cose.Tree {
	var t cose.Tree
	t.Build(slices.Clone(leaves))
	return &t
}

func parseProof(t interface{ Fatal(...any) }, raw []byte) *cose.Proof {
	p, err := cose.ParseProof(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

func climb(t interface{ Fatal(...any) }, tree *cose.Tree, leaves []cose.Hash, i int) cose.Branch {
	return cose.Climb(parseProof(t, tree.AppendProof(nil, i)), leaves[i])
}

func TestEveryLeafOfEveryTreeClimbsToTheRoot(t *testing.T) {
	for n := 2; n <= cose.MaxTree; n = n + 1 + n/40 {
		leaves := leavesOf(n)
		tree := treeOf(leaves)
		for i := range leaves {
			raw := tree.AppendProof(nil, i)
			if len(raw)+16 > cose.ProofOverhead {
				t.Fatalf("a proof of %d bytes is more than the overhead allows", len(raw))
			}
			if b := climb(t, tree, leaves, i); b.Root() != tree.Root() {
				t.Fatalf("leaf %d of %d climbs to another root", i, n)
			}
		}
	}
}

// TestTreeThatIsUsedAgainIsLikeANewOne builds trees of all sizes in one's memory.
func TestTreeThatIsUsedAgainIsLikeANewOne(t *testing.T) {
	var again cose.Tree
	for _, n := range []int{100, 3, 64, 2, 257, 5, 256, 1024, 7} {
		leaves := leavesOf(n)
		again.Build(leaves)
		fresh := treeOf(leaves)
		if again.Root() != fresh.Root() {
			t.Fatalf("%d leaves: another root", n)
		}
		for i := range leaves {
			if !bytes.Equal(again.AppendProof(nil, i), fresh.AppendProof(nil, i)) {
				t.Fatalf("leaf %d of %d: another proof", i, n)
			}
		}
	}
}

// TestJoinSaysWhatClimbingWouldSay joins leaves in any order to the branch of the last one, honest and
// altered: the shortcut accepts exactly what the whole way would.
func TestJoinSaysWhatClimbingWouldSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(t, "size")
		leaves := leavesOf(n)
		tree := treeOf(leaves)
		branch := climb(t, tree, leaves, rapid.IntRange(0, n-1).Draw(t, "first"))
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			i := rapid.IntRange(0, n-1).Draw(t, "index")
			leaf, raw := leaves[i], tree.AppendProof(nil, i)
			switch rapid.SampledFrom([]string{"honest", "honest", "leaf", "byte"}).Draw(t, "alteration") {
			case "leaf":
				leaf = leaves[rapid.IntRange(0, n-1).Draw(t, "other leaf")]
			case "byte":
				at := rapid.IntRange(0, len(raw)-1).Draw(t, "at")
				raw[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
			}
			p, err := cose.ParseProof(raw)
			if err != nil {
				continue
			}
			whole := cose.Climb(&p, leaf)
			want := whole.Root() == tree.Root()
			if got := branch.Join(&p, leaf); got != want {
				t.Fatalf("leaf %d of %d: Join says %t, climbing says %t", i, n, got, want)
			}
			if want && branch != whole {
				t.Fatalf("leaf %d of %d: the branch is not the one that was climbed", i, n)
			}
			if branch.Root() != tree.Root() {
				t.Fatal("the branch has come off its root")
			}
		}
	})
}

func TestBranchOfAnotherSizeIsNotJoined(t *testing.T) {
	leaves := leavesOf(8)
	eight, four := treeOf(leaves), treeOf(leaves[:4])
	branch := climb(t, eight, leaves, 0)
	if branch.Join(parseProof(t, four.AppendProof(nil, 1)), leaves[1]) {
		t.Error("joined")
	}
}

func TestProofsOfWrongShapeAreRefused(t *testing.T) {
	hash := make([]byte, 32)
	proof := func(size, index uint64, path ...[]byte) []byte {
		b := cose.AppendUint(cose.AppendUint(cose.AppendArray(nil, 3), size), index)
		b = cose.AppendArray(b, len(path))
		for _, step := range path {
			b = cose.AppendBytes(b, step)
		}
		return b
	}
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"size 0":          {proof(0, 0), cose.ErrProof},
		"size 1":          {proof(1, 0), cose.ErrProof},
		"size 1025":       {proof(1025, 0, slices.Repeat([][]byte{hash}, 11)...), cose.ErrProof},
		"size 2^64-1":     {proof(1<<64-1, 0, hash), cose.ErrProof},
		"index = size":    {proof(2, 2, hash), cose.ErrProof},
		"no path":         {proof(2, 0), cose.ErrTruncated},
		"a step more":     {proof(2, 0, hash, hash), cose.ErrPath},
		"a step less":     {proof(4, 0, hash), cose.ErrTruncated},
		"lone node":       {proof(3, 2, hash, hash), cose.ErrPath},
		"step of 31":      {proof(2, 0, hash[:31]), cose.ErrPath},
		"step of 33":      {proof(2, 0, append(slices.Clone(hash), 0)), cose.ErrPath},
		"trailing byte":   {append(proof(2, 0, hash), 0), cose.ErrTrailing},
		"two items":       {[]byte{0x82, 2, 0}, cose.ErrProof},
		"no array":        {[]byte{0x02}, cose.ErrUnexpected},
		"nothing":         {nil, cose.ErrTruncated},
		"size not minim.": {[]byte{0x83, 0x18, 2, 0, 0x80}, cose.ErrNotDeterministic},
	} {
		if _, err := cose.ParseProof(c.raw); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestNodesAreNoLeaves offers the two children of a node, joined, as the entry of a leaf (a second
// preimage, if leaves and nodes were hashed alike).
func TestNodesAreNoLeaves(t *testing.T) {
	leaves := leavesOf(4)
	tree := treeOf(leaves)
	half := treeOf(leaves[2:]).Root().Hash
	inner := sha256.Sum256(append([]byte{0}, append(leaves[0][:], leaves[1][:]...)...))
	raw := cose.AppendBytes(cose.AppendArray(cose.AppendUint(cose.AppendUint(cose.AppendArray(nil, 3), 2), 0), 1), half[:])
	if b := cose.Climb(parseProof(t, raw), inner); b.Root().Hash == tree.Root().Hash {
		t.Error("the same root")
	}
}

func TestRootsVerifyUnderTheirKeySizeAndNameOnly(t *testing.T) {
	root := cose.Root{Hash: sha256.Sum256([]byte("root")), Size: 7}
	kid := bytes.Repeat([]byte{7}, 32)
	signature := cose.SignRoot(testKey, kid, root)
	if !cose.VerifyRoot(testKey.public(), kid, root, signature) {
		t.Fatal("does not verify")
	}
	otherSize, otherHash := root, root
	otherSize.Size++
	otherHash.Hash[0]++
	for name, ok := range map[string]bool{
		"another size":           cose.VerifyRoot(testKey.public(), kid, otherSize, signature),
		"another hash":           cose.VerifyRoot(testKey.public(), kid, otherHash, signature),
		"another name":           cose.VerifyRoot(testKey.public(), kid[:31], root, signature),
		"a signature too short":  cose.VerifyRoot(testKey.public(), kid, root, signature[:63]),
		"a key too short":        cose.VerifyRoot(testKey.public()[:31], kid, root, signature),
		"a statement of the key": cose.Sign(testKey, cose.DomainBatch, header(), root.Hash[:]).Verify(testKey.public(), cose.DomainMessage),
	} {
		if ok {
			t.Errorf("%s verifies", name)
		}
	}
}

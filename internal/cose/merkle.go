package cose

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/bits"
)

// Hash is a node of a Merkle tree: a SHA-256 digest.
type Hash [sha256.Size]byte

// MaxTree is how many leaves a tree has at most.
const MaxTree = 1024

// maxPath is the length of the longest inclusion path.
const maxPath = 10

// Labels of COSE Receipts (RFC 9942).
const (
	LabelVDS = 395 // verifiable data structure, in the protected header
	LabelVDP = 396 // its proofs, in the unprotected header

	// VDSMerkle is the value of [LabelVDS] for SHA-256 Merkle trees of RFC 9162.
	VDSMerkle = 1

	labelInclusion = -1     // inclusion proofs, in the map under LabelVDP
	labelTreeSize  = -65543 // private: the number of leaves, in the protected header of a signed root
)

// typRoot is the typ of a signed root.
const typRoot = "application/converge-batch"

// Errors of inclusion proofs.
var (
	ErrProof = errors.New("cose: not an inclusion proof of a tree of 2 to 1024 leaves")
	ErrPath  = errors.New("cose: the inclusion path does not fit the tree")
)

// Leaf returns the hash of s as a leaf: the Sig_structure that a single signature would cover is the
// tree's entry (RFC 9162, section 2.1.1).
func (s Sign1) Leaf(domain Domain) Hash {
	buf := getBuffer()
	entry := s.appendSigned(append((*buf)[:0], leafPrefix), domain)
	h := sha256.Sum256(entry)
	putBuffer(buf, entry)
	return h
}

const (
	leafPrefix = 0
	nodePrefix = 1
)

func parent(left, right *Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = nodePrefix
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// Tree is a Merkle tree over the leaves of one batch.
type Tree struct {
	levels [][]Hash // the leaves first, the root last
}

// NewTree makes a tree of 2 to [MaxTree] leaves, which it keeps.
func NewTree(leaves []Hash) Tree {
	t := Tree{levels: [][]Hash{leaves}}
	for level := leaves; len(level) > 1; {
		above := make([]Hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			above = append(above, parent(&level[i], &level[i+1]))
		}
		if len(level)%2 == 1 { // the odd one has no sibling on this level
			above = append(above, level[len(level)-1])
		}
		t.levels = append(t.levels, above)
		level = above
	}
	return t
}

// Root returns the hash that is signed.
func (t Tree) Root() Root {
	return Root{Hash: t.levels[len(t.levels)-1][0], Size: len(t.levels[0])}
}

// ProofOverhead bounds what [Tree.AppendProof] appends, and the unprotected header around it.
const ProofOverhead = 32 + maxPath*(2+sha256.Size)

// AppendProof appends the encoded inclusion proof of a leaf: [size, index, [path]] (RFC 9942, section 5.2).
func (t Tree) AppendProof(b []byte, index int) []byte {
	b = AppendArray(b, 3)
	b = AppendInt(b, int64(len(t.levels[0])))
	b = AppendInt(b, int64(index))
	steps := 0
	for level, i := 0, index; level < len(t.levels)-1; level, i = level+1, i/2 {
		if i^1 < len(t.levels[level]) {
			steps++
		}
	}
	b = AppendArray(b, steps)
	for level, i := 0, index; level < len(t.levels)-1; level, i = level+1, i/2 {
		if i^1 < len(t.levels[level]) {
			b = AppendBytes(b, t.levels[level][i^1][:])
		}
	}
	return b
}

// Root is the root of a tree, with its size, without which a proof could be told in several ways.
type Root struct {
	Hash Hash
	Size int
}

// RootOf returns the root of the tree in which an encoded inclusion proof places a leaf (RFC 9162,
// section 2.1.3.2). It accepts one encoding of one proof only and allocates nothing.
func RootOf(proof []byte, leaf Hash) (Root, error) {
	r := NewReader(proof)
	if r.Array() != 3 {
		r.Fail(ErrProof)
	}
	size, index := r.Uint(), r.Uint()
	steps := r.Array()
	if size < 2 || size > MaxTree || index >= size || steps > maxPath {
		r.Fail(ErrProof)
	}
	at, last := index, size-1 // both are shifted as the path climbs
	hash := leaf
	for range steps {
		step := r.Bytes()
		if len(step) != sha256.Size || last == 0 {
			r.Fail(ErrPath)
			break
		}
		sibling := Hash(step)
		if at&1 == 1 || at == last {
			hash = parent(&sibling, &hash)
			if at&1 == 0 {
				skipped := bits.TrailingZeros64(at) // not 0: at is last
				at, last = at>>skipped, last>>skipped
			}
		} else {
			hash = parent(&hash, &sibling)
		}
		at, last = at>>1, last>>1
	}
	if last != 0 {
		r.Fail(ErrPath)
	}
	if err := r.End(); err != nil {
		return Root{}, err
	}
	return Root{Hash: hash, Size: int(size)}, nil
}

// SignRoot signs the root of a batch for the key named kid.
func SignRoot(key Signer, kid []byte, root Root) []byte {
	return Sign(key, DomainBatch, rootHeader(nil, kid, root), root.Hash[:]).Signature
}

// VerifyRoot reports whether key, named kid, signed root.
func VerifyRoot(key ed25519.PublicKey, kid []byte, root Root, signature []byte) bool {
	var scratch [128]byte
	s := Sign1{Protected: rootHeader(scratch[:0], kid, root), Payload: root.Hash[:], Signature: signature}
	return s.Verify(key, DomainBatch)
}

func rootHeader(b, kid []byte, root Root) []byte {
	b = AppendMap(b, 5)
	b = AppendInt(AppendInt(b, LabelAlg), AlgEdDSA)
	b = AppendBytes(AppendInt(b, LabelKid), kid)
	b = AppendText(AppendInt(b, LabelTyp), typRoot)
	b = AppendInt(AppendInt(b, LabelVDS), VDSMerkle)
	return AppendInt(AppendInt(b, labelTreeSize), int64(root.Size))
}

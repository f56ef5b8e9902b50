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

// Build makes t the tree of 2 to [MaxTree] leaves, which it keeps. It uses its memory again.
func (t *Tree) Build(leaves []Hash) {
	t.levels = append(t.levels[:0], leaves)
	for level := leaves; len(level) > 1; level = t.levels[len(t.levels)-1] {
		above := t.nextLevel()
		for i := 0; i+1 < len(level); i += 2 {
			above = append(above, parent(&level[i], &level[i+1]))
		}
		if len(level)%2 == 1 { // the odd one has no sibling on this level
			above = append(above, level[len(level)-1])
		}
		t.levels[len(t.levels)-1] = above
	}
}

// nextLevel adds an empty level, in the memory of an earlier one if there was one.
func (t *Tree) nextLevel() []Hash {
	n := len(t.levels)
	if n == cap(t.levels) {
		t.levels = append(t.levels, nil)
	} else {
		t.levels = t.levels[:n+1]
	}
	return t.levels[n][:0]
}

// Root returns the hash that is signed.
func (t *Tree) Root() Root {
	return Root{Hash: t.levels[len(t.levels)-1][0], Size: len(t.levels[0])}
}

// ProofOverhead bounds what [Tree.AppendProof] appends, and the unprotected header around it.
const ProofOverhead = 32 + maxPath*(2+sha256.Size)

// AppendProof appends the encoded inclusion proof of a leaf: [size, index, [path]] (RFC 9942, section 5.2).
func (t *Tree) AppendProof(b []byte, index int) []byte {
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

// Proof is a decoded inclusion proof. Its hashes alias the input.
type Proof struct {
	place
	path [maxPath][]byte // by level; nil where the node has no sibling
}

// place is where a leaf is.
type place struct{ size, index int }

// ParseProof reads an inclusion proof. It accepts one encoding of one proof only, and a path that is as
// long as size and index say, and allocates nothing.
func ParseProof(raw []byte) (p Proof, err error) {
	r := NewReader(raw)
	if r.Array() != 3 {
		r.Fail(ErrProof)
	}
	size, index := r.Uint(), r.Uint()
	if size < 2 || size > MaxTree || index >= size {
		r.Fail(ErrProof)
		return p, r.End()
	}
	p.size, p.index = int(size), int(index)
	steps := r.Array()
	for level := range p.levels() {
		if !p.hasSibling(level) {
			continue
		}
		steps--
		if p.path[level] = r.Bytes(); len(p.path[level]) != sha256.Size {
			r.Fail(ErrPath)
			return p, r.End()
		}
	}
	if steps != 0 {
		r.Fail(ErrPath)
	}
	return p, r.End()
}

// levels returns how many levels lie below the root.
func (p place) levels() int { return bits.Len(uint(p.size - 1)) }

// hasSibling reports whether the node on the way has a sibling on a level; the last of an odd number has
// none and is, unchanged, the last node of the next level.
func (p place) hasSibling(level int) bool {
	last := (p.size - 1) >> level
	return p.index>>level^1 <= last
}

// up returns the node above one on the way, and its sibling on the way.
func (p *Proof) up(level int, node *Hash) (above, sibling Hash) {
	if p.path[level] == nil {
		return *node, Hash{}
	}
	sibling = Hash(p.path[level])
	if p.index>>level&1 == 1 {
		return parent(&sibling, node), sibling
	}
	return parent(node, &sibling), sibling
}

// Branch is the way from one leaf of a tree up to its root: the nodes on it, and their siblings.
type Branch struct {
	place
	own     [maxPath + 1]Hash
	sibling [maxPath]Hash
}

// Climb returns the branch on which a proof places a leaf (RFC 9162, section 2.1.3.2).
func Climb(p *Proof, leaf Hash) (b Branch) {
	b.place, b.own[0] = p.place, leaf
	for level := range p.levels() {
		b.own[level+1], b.sibling[level] = p.up(level, &b.own[level])
	}
	return b
}

// Root returns the branch's root.
func (b *Branch) Root() Root { return Root{Hash: b.own[b.levels()], Size: b.size} }

// Join reports whether [Climb] would lead to the same root from another leaf, and if so makes b that
// leaf's branch. It is cheap for leaves near the last one: it climbs only to where the ways meet, and
// compares what is above. If it reports false, b is as before.
func (b *Branch) Join(p *Proof, leaf Hash) bool {
	if p.size != b.size {
		return false
	}
	var own [maxPath + 1]Hash
	var sibling [maxPath]Hash
	own[0] = leaf
	level := 0
	for ; p.index>>level != b.index>>level; level++ {
		if p.index>>level == b.index>>level^1 {
			return b.joinSibling(p, level, &own, &sibling)
		}
		own[level+1], sibling[level] = p.up(level, &own[level])
	}
	if own[level] != b.own[level] || !b.agreesAbove(p, level) {
		return false
	}
	b.follow(p, level, &own, &sibling)
	return true
}

// joinSibling is Join where the way of p arrives at the sibling of a node of b: each has to be what the
// other's way says.
func (b *Branch) joinSibling(p *Proof, level int, own *[maxPath + 1]Hash, sibling *[maxPath]Hash) bool {
	if own[level] != b.sibling[level] || string(p.path[level]) != string(b.own[level][:]) || !b.agreesAbove(p, level+1) {
		return false
	}
	sibling[level] = b.own[level]
	b.follow(p, level+1, own, sibling)
	return true
}

// agreesAbove reports whether p names, from a level on, the siblings of b.
func (b *Branch) agreesAbove(p *Proof, level int) bool {
	for ; level < p.levels(); level++ {
		if p.path[level] != nil && string(p.path[level]) != string(b.sibling[level][:]) {
			return false
		}
	}
	return true
}

// follow makes b the branch of p, which differs below a level.
func (b *Branch) follow(p *Proof, level int, own *[maxPath + 1]Hash, sibling *[maxPath]Hash) {
	b.index = p.index
	copy(b.own[:level], own[:level])
	copy(b.sibling[:level], sibling[:level])
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

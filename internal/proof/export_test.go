package proof

// SetMaxRoots makes each generation of v's roots smaller than it is.
func (v *Verifier) SetMaxRoots(n int) { v.roots.most = n }

// Roots returns how many roots v remembers.
func (v *Verifier) Roots() int { return len(v.roots.young) + len(v.roots.old) }

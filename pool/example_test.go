package pool_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/store/memory"
)

// Alice makes a pool that asks for a token, and Bob joins it.
func Example() {
	ctx := context.Background()
	entries := must(memory.New(memory.Config{}))
	defer entries.Close()
	pools := must(pool.New(pool.Config{Store: entries, Network: "example.org", Keys: identity.NewRegistry(0)}))
	defer pools.Attach(func(pool.Change) {})() // follow the store: answers come from memory

	token := pool.NewToken() // for Alice to hand on, in private
	must(pools.Create(ctx, alice, pool.Spec{
		Name: "painters", Topics: []string{"talk"}, Admission: pool.ByToken, Token: token,
	}))
	_, err := pools.Join(ctx, bob, "painters", pool.Token("open sesame, please"))
	fmt.Println(errors.Is(err, pool.ErrNotAdmitted), pools.IsMember("painters", bob.ID()))
	must(pools.Join(ctx, bob, "painters", token))
	fmt.Println(pools.Pools(bob.ID()), pools.Topics(bob.ID()), token)
	// Output:
	// true false
	// [painters] [pool.painters.talk] token (redacted)
}

package message_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// A message to two agents of a topic, which its other subscribers cannot read.
func ExampleDraft_sealTo() {
	offers := message.MustTopic("offers")
	keys := map[identity.ID]*identity.SealingKeys{}
	reader := func(id identity.ID) *message.Verifier {
		keys[id], _ = identity.NewSealingKeys(identity.SealingKeysConfig{})
		v, _ := message.NewVerifier(message.VerifierConfig{
			Self: id, Network: "prod.example", Keys: registryOf(alice), Sealing: keys[id],
		})
		v.Subscribe(message.MustPattern("offers"))
		return v
	}
	readers := []*message.Verifier{reader(bob.ID()), reader(carol.ID()), reader(mallory.ID())}

	// Others know the public keys from signed key statements.
	known := identity.NewSealingSource(func(id identity.ID) ([]byte, error) { return keys[id].Current().Bytes(), nil })
	signer, _ := message.NewSigner(message.SignerConfig{Identity: alice, Network: "prod.example", Recipients: known})
	m, err := signer.Sign(context.Background(), message.Draft{
		Topics: []message.Topic{offers}, Body: []byte("42"), SealTo: []identity.ID{bob.ID(), carol.ID()},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range readers {
		got, err := r.Verify(m.Raw())
		if errors.Is(err, message.ErrUnopenable) {
			fmt.Println("cannot be opened")
			continue
		}
		fmt.Printf("%s, sealed: %t\n", got.Body(), got.Sealed())
	}
	// Output:
	// 42, sealed: true
	// 42, sealed: true
	// cannot be opened
}

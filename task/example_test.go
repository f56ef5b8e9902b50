package task_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
)

func Example() {
	s, err := memory.New(memory.Config{})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	m, err := task.New(task.Config{Store: s, UnsignedUnsafe: true})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	submitter, worker := identity.ID{1}, task.Profile{Agent: identity.ID{2}, Capabilities: []string{"translate", "summarise"}}
	_, err = m.Submit(ctx, task.Spec{
		ID: "letter-1", Kind: "translate", Params: []byte(`{"to":"fr"}`), Capabilities: []string{"translate"}, Submitter: submitter,
	})
	if err != nil {
		panic(err)
	}

	for _, t := range m.Visible(worker, 10) {
		fmt.Println(t.ID, t.Status, string(t.Params))
	}
	claim, t, err := m.Claim(ctx, "letter-1", worker)
	fmt.Println(t.Status, claim.Epoch, err)
	t, err = m.Report(ctx, claim, []byte("Bonjour"), "text/plain")
	fmt.Println(t.Status, string(t.Result), err)
	_, err = m.Report(ctx, claim, []byte("Salut"), "text/plain")
	fmt.Println(err, errors.Is(err, task.ErrTerminal))
	// Output:
	// letter-1 pending {"to":"fr"}
	// assigned 1 <nil>
	// completed Bonjour <nil>
	// report task "letter-1": task has ended true
}

package postgres_test

import (
	"context"
	"fmt"
	"log"

	"github.com/converge-agents/converge/store/postgres"
)

func ExampleOpen() {
	ctx := context.Background()
	s, err := postgres.Open(ctx, postgres.Config{URL: "postgres://converge@db.example:5432/converge?sslmode=verify-full"})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	first, err := s.Put(ctx, "pool/painters", []byte("open"), 0)
	if err != nil {
		log.Fatal(err)
	}
	_, err = s.Put(ctx, "pool/painters", []byte("closed"), first)
	fmt.Println(err)
}

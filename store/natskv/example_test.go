package natskv_test

import (
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/store/natskv"
)

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "natskv")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	broker, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, JetStream: true, StoreDir: dir, SyncAlways: true, MaxPayload: 2 << 20})
	if err != nil {
		panic(err)
	}
	broker.Start()
	defer broker.WaitForShutdown()
	defer broker.Shutdown()

	conn, err := client.Connect("", client.InProcessServer(broker), client.MaxReconnects(-1))
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	s, err := natskv.Open(ctx, natskv.Config{JetStream: js, Bucket: "agents", MaxBytes: 64 << 20})
	if err != nil {
		panic(err)
	}
	defer s.Close()

	rev, _ := s.Put(ctx, "pool/painters", []byte("open"), 0)
	_, err = s.Put(ctx, "pool/painters", []byte("mine"), 0)
	fmt.Println(err)
	again, _ := s.Put(ctx, "pool/painters", []byte("closed"), rev)
	fmt.Println(again > rev)
	// Output:
	// put "pool/painters": entry is at another revision
	// true
}

// A client of order_idempotency: see README.md.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// shop is what each step is given.
type shop struct {
	pool   *pgxpool.Pool
	url    string
	pooled bool
	prefix string // of the keys of this run
}

// key is a key that no other run uses.
func (s *shop) key(name string) string {
	return s.prefix + name
}

// newShop connects as the environment says.
func newShop(ctx context.Context) (*shop, error) {
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	s := &shop{
		url:    os.Getenv("DATABASE_URL"),
		pooled: os.Getenv("POOLED") == "1",
		prefix: "go-" + hex.EncodeToString(random) + "-",
	}
	pool, err := Connect(ctx, s.url, s.pooled)
	s.pool = pool
	return s, err
}

// run takes the steps one after the other and says how many failed.
func (s *shop) run(ctx context.Context) (failed int) {
	for _, step := range steps {
		if err := step.take(s, ctx); err != nil {
			fmt.Printf("not ok - %s: %v\n", step.name, err)
			failed++
			continue
		}
		fmt.Printf("ok - %s\n", step.name)
	}
	fmt.Printf("1..%d\n", len(steps))
	return failed
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s, err := newShop(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot use DATABASE_URL:", err)
		os.Exit(1)
	}
	defer s.pool.Close()
	if s.run(ctx) > 0 {
		os.Exit(1)
	}
}

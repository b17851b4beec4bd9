package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
)

// What the steps need and no application does: a provider, and a network that
// loses an answer.

// fakeProvider is a payment provider on a port of its own. It knows the keys that
// it has seen, and counts what it charged.
type fakeProvider struct {
	*httptest.Server
	mutex   sync.Mutex
	charges map[string]string
	calls   int
}

// newFakeProvider starts a provider; Close ends it.
func newFakeProvider() *fakeProvider {
	p := &fakeProvider{charges: map[string]string{}}
	p.Server = httptest.NewServer(p)
	return p
}

// ServeHTTP is the provider's side of a charge.
func (p *fakeProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.calls++
	key := r.Header.Get("Idempotency-Key")
	if p.charges[key] == "" {
		p.charges[key] = fmt.Sprintf("ch_%s_%d", key, len(p.charges)+1)
	}
	fmt.Fprint(w, p.charges[key])
}

// Charge is the worker's side of it.
func (p *fakeProvider) Charge(ctx context.Context, key string, amount int64) (string, error) {
	body := strings.NewReader(fmt.Sprintf("amount=%d", amount))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, body)
	if err != nil {
		return "", err
	}
	request.Header.Set("Idempotency-Key", key)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	charge, err := io.ReadAll(answer.Body)
	return string(charge), err
}

// counts says how often the provider was called and how often it charged.
func (p *fakeProvider) counts() (calls, charges int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.calls, len(p.charges)
}

// badNetwork loses the first answer to what contains a text, and the connection
// with it. The answer has come by then, so the server has carried it out.
type badNetwork struct {
	text []byte
	lost atomic.Bool
}

// install makes a pool's connections go through the network.
func (n *badNetwork) install(config *pgxpool.Config) {
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return &badConn{Conn: conn, network: n}, err
	}
}

// badConn is a connection through a badNetwork.
type badConn struct {
	net.Conn
	network *badNetwork
	losing  atomic.Bool
}

// Write sends, and looks for the text.
func (c *badConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, c.network.text) && !c.network.lost.Swap(true) {
		c.losing.Store(true)
	}
	return c.Conn.Write(p)
}

// Read receives; the answer that is to be lost it takes and throws away.
func (c *badConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil && c.losing.Load() {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

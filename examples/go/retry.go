package main

import (
	"context"
	"errors"
	"io"
	"math/rand"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	maxTries   = 10
	firstPause = 20 * time.Millisecond // before the second try; it doubles from try to try
	tryTimeout = 30 * time.Second      // longer than in_flight_wait; pgx drops the connection then
)

// Retry calls work again for as long as another try can mend what went wrong.
//
// work is one call, or one whole transaction, and uses the same idempotency key
// each time: then it does not matter whether the try that got no answer was
// carried out. Do not start it inside of a transaction, which is lost by then.
func Retry[T any](ctx context.Context, work func(context.Context) (T, error)) (T, error) {
	pause := firstPause
	for try := 1; ; try++ {
		result, err := once(ctx, work)
		if err == nil || try == maxTries || !CanRetry(err) {
			return result, err
		}
		select {
		case <-ctx.Done():
			return result, err
		case <-time.After(pause + time.Duration(rand.Int63n(int64(pause)))):
		}
		pause *= 2
	}
}

// once makes a try that ends after tryTimeout.
func once[T any](ctx context.Context, work func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return work(ctx)
}

// CanRetry tells whether the same call with the same key may do better.
func CanRetry(err error) bool {
	switch state := SQLState(err); {
	case state == "":
		return connectionLost(err)
	case state == "40001", state == "40P01": // lost against another transaction; deadlock
		return true
	case state == "OI002", state == "55P03": // the key is in use; lock_timeout
		return true
	case state[:2] == "08", state == "53300": // the connection, PgBouncer's errors too; no slot free
		return true
	case state[:3] == "57P" && state <= "57P03": // terminated; crashed; starting
		return true
	}
	return false
}

// SQLState is the error's code, or empty if it does not come from the server.
func SQLState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// connectionLost tells whether the connection failed or timed out: then nobody
// knows whether the server did it. pgx leaves this to the errors of package net.
func connectionLost(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		pgconn.SafeToRetry(err) || pgconn.Timeout(err)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Payer charges orders through a provider. The call to the provider cannot be
// part of a transaction; the claim with a lease holds what lies around it together:
// at most one worker at a time, and after a crash another one.
type Payer struct {
	Pool     *pgxpool.Pool
	Provider Provider
	Lease    time.Duration // longer than a call to the provider takes
}

// Provider charges a card. A charge with a key that it knows is the charge of the
// first time; without such a provider no order can be paid exactly once.
type Provider interface {
	Charge(ctx context.Context, key string, amount int64) (charge string, err error)
}

// Receipt is the response that is stored with the claim.
type Receipt struct {
	Charge string `json:"charge"`
}

var (
	// ErrInProgress: another worker is at it, or was when it crashed; come back later.
	ErrInProgress = errors.New("another attempt holds the lease")
	// ErrStale: the lease ended and another attempt took over; it has the say now.
	ErrStale = errors.New("another attempt has taken over")
)

const paymentScope = "payments"

// paymentKey is the key of an order's payment, here and at the provider: made
// from the order, so that each worker that comes to it uses the same.
func paymentKey(order Order) string {
	return "pay-" + order.OrderKey
}

// Pay charges an order and records that. Call it again until it succeeds.
func (p Payer) Pay(ctx context.Context, order Order) error {
	claim, err := p.Claim(ctx, order)
	if err != nil || claim.Outcome == "replayed" {
		return err
	}
	charge, err := p.Provider.Charge(ctx, paymentKey(order), *order.Amount)
	if err != nil {
		return err // the lease is kept: nobody knows whether it was charged
	}
	return p.Record(ctx, order, *claim.Attempt, charge)
}

// Claim claims the payment for this worker, and commits that.
func (p Payer) Claim(ctx context.Context, order Order) (ClaimResult, error) {
	request := map[string]any{"order": order.OrderKey, "amount": *order.Amount, "currency": *order.Currency}
	claim, err := Retry(ctx, func(ctx context.Context) (ClaimResult, error) {
		return ClaimKey(ctx, p.Pool, paymentScope, paymentKey(order), request, &p.Lease)
	})
	switch {
	case err != nil:
		return claim, err
	case claim.Outcome == "in_progress":
		return claim, ErrInProgress
	case claim.Outcome == "mismatch":
		return claim, fmt.Errorf("order %s was to be paid with another amount", order.OrderKey)
	}
	return claim, nil
}

// Record completes the claim and changes the order's state, both or neither. The
// claim comes first: an attempt that was overtaken must change nothing.
func (p Payer) Record(ctx context.Context, order Order, attempt int32, charge string) error {
	_, err := Retry(ctx, func(ctx context.Context) (any, error) {
		return nil, pgx.BeginFunc(ctx, p.Pool, func(tx pgx.Tx) error {
			outcome, err := CompleteKey(ctx, tx, paymentScope, paymentKey(order), Receipt{charge}, &attempt)
			if err != nil {
				return err
			}
			if outcome != "completed" && outcome != "replayed" {
				return ErrStale
			}
			_, err = TransitionOrder(ctx, tx, order.OrderKey, "paid", charge)
			return err
		})
	})
	return err
}

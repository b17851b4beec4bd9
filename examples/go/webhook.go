package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Delivery is what a provider posts to a webhook, more than once if it likes.
type Delivery struct {
	ID     string `json:"id"`
	Order  string `json:"order"`
	Charge string `json:"charge"`
}

// Handled is what a delivery came to. The outcome is stored with its claim.
type Handled struct {
	Outcome  string `json:"outcome"`
	Replayed bool   `json:"-"` // it was there before
}

// HandleWebhook marks an order as paid, once for each delivery. After an error
// the provider shall send it again: nothing is kept of it then.
func HandleWebhook(ctx context.Context, pool *pgxpool.Pool, d Delivery) (Handled, error) {
	return Retry(ctx, func(ctx context.Context) (handled Handled, err error) {
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			handled, err = handleDelivery(ctx, tx, d)
			return err
		})
		return handled, err
	})
}

// handleDelivery is the transaction of HandleWebhook. The claim has no lease: it
// commits with the change, or not at all.
func handleDelivery(ctx context.Context, tx pgx.Tx, d Delivery) (handled Handled, err error) {
	// LOCAL: behind a pooler a setting of the session is somebody else's soon.
	if _, err = tx.Exec(ctx, "SET LOCAL order_idempotency.in_flight_wait = '2 s'"); err != nil {
		return handled, err
	}
	claim, err := ClaimKey(ctx, tx, "webhooks", d.ID, d, nil)
	switch {
	case err != nil:
		return handled, err
	case claim.Outcome == "replayed":
		handled.Replayed = true
		return handled, json.Unmarshal(claim.Response, &handled)
	case claim.Outcome != "claimed":
		return handled, fmt.Errorf("delivery %s: %s", d.ID, claim.Outcome)
	}
	if handled.Outcome, err = applyDelivery(ctx, tx, d); err != nil {
		return handled, err
	}
	_, err = CompleteKey(ctx, tx, "webhooks", d.ID, handled, nil)
	return handled, err
}

// applyDelivery changes the order's state. Not being possible for good is an
// outcome, because an error would undo the claim and the provider would send the
// delivery for ever. What may become possible stays an error.
func applyDelivery(ctx context.Context, tx pgx.Tx, d Delivery) (string, error) {
	result, err := ReportTransitionOrder(ctx, tx, d.Order, "paid", d.Charge)
	if err != nil {
		return "", err
	}
	switch result.Outcome {
	case "in_progress", "missing": // in use, or not created yet
		return "", fmt.Errorf("order %s: %s", d.Order, result.Outcome)
	}
	return result.Outcome, nil
}

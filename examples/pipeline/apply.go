package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	claimKey = `SELECT outcome FROM order_idempotency.claim_key($1, $2, scope => $3)`

	createOrder = `SELECT outcome, state, detail FROM order_idempotency.create_order($1, $2, $3,
		account => $4, headers => $5, on_conflict => 'report')`

	transitionOrder = `SELECT outcome, state, detail FROM order_idempotency.transition_order($1, $2,
		request_key => $3, headers => $4, on_conflict => 'report')`

	cancelOrder = `SELECT outcome, state, detail FROM order_idempotency.cancel_order($1, $2,
		request_key => $3, headers => $4, on_conflict => 'report')`

	emitEvent = `SELECT order_idempotency.emit_event($1, $2, $3, $4)`

	takeFromStock = `UPDATE stock SET count = count - $2 WHERE sku = $1`
)

// apply is the transaction of a message: the claim of its id, and all that it
// has done. They commit together or not at all. The claim remembers the command:
// the same id with another one is not a repeat.
func apply(ctx context.Context, tx pgx.Tx, m Message, c Command) error {
	outcome, err := claim(ctx, tx, m.ID, c, "commands")
	switch {
	case err != nil:
		return err
	case outcome == "replayed": // a repeat: done before
		return nil
	case outcome == "mismatch":
		return errTaken
	case outcome != "claimed":
		return errBusy
	}
	return do(ctx, tx, m, c)
}

// claim claims an id for the transaction, and says what came of that.
func claim(ctx context.Context, tx pgx.Tx, id string, request any, scope string) (outcome string, err error) {
	err = tx.QueryRow(ctx, claimKey, id, request, scope).Scan(&outcome)
	return outcome, err
}

// do does what the command says. The events name the message that caused them.
func do(ctx context.Context, tx pgx.Tx, m Message, c Command) error {
	headers := map[string]string{"causationid": m.ID}
	switch c.Do {
	case "create":
		return change(ctx, tx, createOrder, c.Order, c.Amount, c.Currency, c.Account, headers)
	case "pay":
		return change(ctx, tx, transitionOrder, c.Order, "paid", m.ID, headers)
	case "cancel":
		return change(ctx, tx, cancelOrder, c.Order, c.Reason, m.ID, headers)
	case "ship":
		return ship(ctx, tx, m, c, headers)
	}
	return refusal{fmt.Sprintf("there is no command %q", c.Do)}
}

// ship completes an order, takes what it has from a table of the application's,
// and writes an event of the application's. Only the claim keeps the last two
// from happening again.
func ship(ctx context.Context, tx pgx.Tx, m Message, c Command, headers map[string]string) error {
	if err := change(ctx, tx, transitionOrder, c.Order, "completed", m.ID, headers); err != nil {
		return err
	}
	done, err := tx.Exec(ctx, takeFromStock, c.SKU, c.Count)
	if err != nil {
		return err
	}
	if done.RowsAffected() == 0 {
		return refusal{fmt.Sprintf("there is no %q", c.SKU)}
	}
	parcel := map[string]any{"sku": c.SKU, "count": c.Count}
	_, err = tx.Exec(ctx, emitEvent, "parcel.sent", c.Order, parcel, headers)
	return err
}

// change calls an order function and tells what is done, what may still be
// possible later, and what never will.
func change(ctx context.Context, tx pgx.Tx, call string, args ...any) error {
	var outcome string
	var state, detail *string
	if err := tx.QueryRow(ctx, call, args...).Scan(&outcome, &state, &detail); err != nil {
		return err
	}
	switch outcome {
	case "created", "applied", "cancelled", "replayed":
		return nil
	case "in_progress":
		return errBusy
	case "missing":
		return errEarly
	case "illegal":
		if *state == "created" { // nothing but a payment is missing
			return errEarly
		}
	}
	if detail == nil {
		return refusal{outcome}
	}
	return refusal{outcome + ": " + *detail}
}

// reject puts a message aside: its id is claimed, so that it is not carried out later,
// and an event tells of it, which a subscription of its own takes to where somebody
// looks. Where another message has the id, this one is known by its digest. Of the
// message nothing is used that could be what the database does not take.
func reject(ctx context.Context, tx pgx.Tx, m Message, why error) error {
	id, scope := m.ID, "commands"
	if errors.Is(why, errTaken) {
		id, scope = m.Digest(), "rejected"
	}
	outcome, err := claim(ctx, tx, id, nil, scope)
	switch {
	case err != nil:
		return err
	case outcome == "replayed": // rejected before, or carried out elsewhere meanwhile
		return nil
	case outcome != "claimed":
		return errBusy
	}
	body := m.Body
	if len(body) > maxRejected {
		body = body[:maxRejected]
	}
	letter := map[string]any{"id": m.ID, "reason": why.Error(), "from": m.From, "size": len(m.Body), "body": body}
	_, err = tx.Exec(ctx, emitEvent, "command.rejected", m.ID, letter, nil)
	return err
}

// maxRejected is how much of a body is kept: less than max_payload when in base64.
const maxRejected = 512 * 1024

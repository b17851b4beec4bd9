package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// DB is what a call is made on: a pool or connection, where the call is a
// transaction of its own, or a pgx.Tx, where it commits with all else.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// OrderResult is the type order_result. Which columns are null depends on the
// outcome; docs/reference.md has the table.
type OrderResult struct {
	OrderKey  string
	Outcome   string
	State     *string
	Version   *int32
	EventID   pgtype.UUID
	ChangedAt *time.Time
	Detail    *string
}

// ClaimResult is the type claim_result.
type ClaimResult struct {
	Outcome    string
	Response   json.RawMessage
	Attempt    *int32
	ClaimedAt  *time.Time
	LeaseUntil *time.Time
}

// Order is a row of get_order.
type Order struct {
	OrderKey           string
	State              string
	Version            int32
	Amount             *int64 // null of a tombstone
	Currency           *string
	Account            *string
	MoneyStatus        *string
	Payload            json.RawMessage
	Tombstone          bool
	CreatedAt          time.Time
	ChangedAt          time.Time
	AllowedTransitions []string
}

// Step is a row of order_history.
type Step struct {
	Version    int32
	State      string
	At         time.Time
	EventID    pgtype.UUID
	RequestKey *string
	Reason     *string
}

// NewOrder is what create_order is asked for. Payload and Headers are anything
// that encoding/json takes; a nil pointer, map or interface is NULL.
type NewOrder struct {
	Key       string
	Amount    int64 // minor units, such as cents
	Currency  string
	Account   *string
	Payload   any
	PayWithin *time.Duration
	Headers   map[string]string
}

const createOrder = `SELECT * FROM order_idempotency.create_order($1, $2, $3,
	account => $4, payload => $5, pay_within => $6, headers => $7, on_conflict => $8)`

// CreateOrder creates an order; what cannot be done is an error.
func CreateOrder(ctx context.Context, db DB, o NewOrder) (OrderResult, error) {
	return one[OrderResult](ctx, db, createOrder,
		o.Key, o.Amount, o.Currency, o.Account, o.Payload, o.PayWithin, o.Headers, "error")
}

// ReportCreateOrder creates an order; what cannot be done is an outcome, and the
// transaction can go on.
func ReportCreateOrder(ctx context.Context, db DB, o NewOrder) (OrderResult, error) {
	return one[OrderResult](ctx, db, createOrder,
		o.Key, o.Amount, o.Currency, o.Account, o.Payload, o.PayWithin, o.Headers, "report")
}

const transitionOrder = `SELECT * FROM order_idempotency.transition_order($1, $2,
	request_key => $3, on_conflict => $4)`

// TransitionOrder changes an order's state; what cannot be done is an error.
func TransitionOrder(ctx context.Context, db DB, key, toState, requestKey string) (OrderResult, error) {
	return one[OrderResult](ctx, db, transitionOrder, key, toState, requestKey, "error")
}

// ReportTransitionOrder changes an order's state; what cannot be done is an
// outcome, and the transaction can go on.
func ReportTransitionOrder(ctx context.Context, db DB, key, toState, requestKey string) (OrderResult, error) {
	return one[OrderResult](ctx, db, transitionOrder, key, toState, requestKey, "report")
}

const claimKey = `SELECT * FROM order_idempotency.claim_key($1, $2, scope => $3, lease => $4)`

// ClaimKey claims a key for the transaction; lease is nil, or how long the claim
// outlives it.
func ClaimKey(ctx context.Context, db DB, scope, key string, request any, lease *time.Duration) (ClaimResult, error) {
	return one[ClaimResult](ctx, db, claimKey, key, request, scope, lease)
}

const completeKey = `SELECT complete_key AS outcome FROM
	order_idempotency.complete_key($1, $2, scope => $3, attempt => $4)`

// CompleteKey stores the response of the work that an attempt claimed.
func CompleteKey(ctx context.Context, db DB, scope, key string, response any, attempt *int32) (string, error) {
	rows, err := db.Query(ctx, completeKey, key, response, scope, attempt)
	if err != nil {
		return "", err
	}
	return pgx.CollectOneRow(rows, pgx.RowTo[string])
}

const getOrder = `SELECT * FROM order_idempotency.get_order($1)`

// GetOrder reads an order; pgx.ErrNoRows if there is none.
func GetOrder(ctx context.Context, db DB, key string) (Order, error) {
	return one[Order](ctx, db, getOrder, key)
}

const orderHistory = `SELECT * FROM order_idempotency.order_history($1)`

// OrderHistory reads what happened to an order, oldest first.
func OrderHistory(ctx context.Context, db DB, key string) ([]Step, error) {
	rows, err := db.Query(ctx, orderHistory, key)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Step])
}

// one makes a call that returns one row.
func one[T any](ctx context.Context, db DB, sql string, args ...any) (T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectOneRow(rows, pgx.RowToStructByName[T])
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// steps is the scenario; ../clients.md tells it for all languages.
var steps = []struct {
	name string
	take func(*shop, context.Context) error
}{
	{"create with retry", (*shop).createWithRetry},
	{"retry on 40001", (*shop).retrySerialization},
	{"outcome and SQLSTATE", (*shop).outcomes},
	{"pay with a lease", (*shop).payWithLease},
	{"webhook inbox", (*shop).webhookInbox},
	{"read the order", (*shop).readOrder},
}

// createWithRetry loses the answer to a create that has committed. The same call
// with the same key, on a new connection of the pool, gets that answer.
func (s *shop) createWithRetry(ctx context.Context) error {
	order := NewOrder{Key: s.key("lost"), Amount: 4990, Currency: "EUR"}
	network := &badNetwork{text: []byte(order.Key)}
	config, err := Configure(s.url, s.pooled)
	if err != nil {
		return err
	}
	network.install(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()

	var errs []error
	result, err := Retry(ctx, func(ctx context.Context) (OrderResult, error) {
		result, err := CreateOrder(ctx, pool, order)
		errs = append(errs, err)
		return result, err
	})
	if err != nil {
		return err
	}
	history, err := OrderHistory(ctx, s.pool, order.Key)
	if err != nil {
		return err
	}
	return first(
		equal("tries", len(errs), 2),
		equal("SQLSTATE of the first", SQLState(errs[0]), ""),
		equal("outcome", result.Outcome, "replayed"),
		equal("event_ids", eventIDs(history), []pgtype.UUID{result.EventID}),
	)
}

// retrySerialization loses a race at REPEATABLE READ: what the snapshot does not
// show is there. The whole transaction is made again, with a new snapshot.
func (s *shop) retrySerialization(ctx context.Context) error {
	order := NewOrder{Key: s.key("race"), Amount: 100, Currency: "EUR"}
	var rival OrderResult
	var states []string

	attempt := func(tx pgx.Tx) (OrderResult, error) {
		_, err := GetOrder(ctx, tx, order.Key) // takes the snapshot
		if errors.Is(err, pgx.ErrNoRows) {
			rival, err = CreateOrder(ctx, s.pool, order) // on another connection
		}
		if err != nil {
			return OrderResult{}, err
		}
		return CreateOrder(ctx, tx, order)
	}
	result, err := Retry(ctx, func(ctx context.Context) (result OrderResult, err error) {
		options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
		err = pgx.BeginTxFunc(ctx, s.pool, options, func(tx pgx.Tx) error {
			result, err = attempt(tx)
			return err
		})
		states = append(states, SQLState(err))
		return result, err
	})
	if err != nil {
		return err
	}
	return first(
		equal("SQLSTATEs", states, []string{"40001", ""}),
		equal("rival", rival.Outcome, "created"),
		equal("outcome", result.Outcome, "replayed"),
		equal("event_id", result.EventID, rival.EventID),
	)
}

// outcomes does what cannot be done: an error with a SQLSTATE, or an outcome
// where the caller asked for a report.
func (s *shop) outcomes(ctx context.Context) error {
	order := NewOrder{Key: s.key("outcomes"), Amount: 4990, Currency: "EUR"}
	if _, err := CreateOrder(ctx, s.pool, order); err != nil {
		return err
	}
	other := order
	other.Amount = 9990

	_, mismatch := CreateOrder(ctx, s.pool, other)
	_, illegal := TransitionOrder(ctx, s.pool, order.Key, "completed", "done")
	_, missing := TransitionOrder(ctx, s.pool, s.key("nobody's"), "paid", "charge")
	var pgErr *pgconn.PgError
	if !errors.As(illegal, &pgErr) {
		return fmt.Errorf("not an error of the server: %v", illegal)
	}
	return first(
		equal("other amount", SQLState(mismatch), "OI001"),
		equal("completed before paid", SQLState(illegal), "OI003"),
		equal("detail", pgErr.Detail, `The order is in state "created".`),
		equal("hint", pgErr.Hint, `Allowed states: "paid", "cancelled".`),
		equal("no such order", SQLState(missing), "OI004"),
		pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return s.reports(ctx, tx, order, other) }),
	)
}

// reports does the same in one transaction, which goes on and commits.
func (s *shop) reports(ctx context.Context, tx pgx.Tx, order, other NewOrder) error {
	mismatch, err1 := ReportCreateOrder(ctx, tx, other)
	illegal, err2 := ReportTransitionOrder(ctx, tx, order.Key, "completed", "done")
	missing, err3 := ReportTransitionOrder(ctx, tx, s.key("nobody's"), "paid", "charge")
	paid, err4 := ReportTransitionOrder(ctx, tx, order.Key, "paid", "charge")
	if err := first(err1, err2, err3, err4); err != nil {
		return err
	}
	return first(
		equal("other amount", mismatch.Outcome, "mismatch"),
		equal("its detail", mismatch.Detail, pointer("The request differs from the first one in: amount.")),
		equal("completed before paid", illegal.Outcome, "illegal"),
		equal("its state", illegal.State, pointer("created")),
		equal("no such order", missing.Outcome, "missing"),
		equal("its state", missing.State, nil),
		equal("then", paid.Outcome, "applied"),
	)
}

// payWithLease lets a worker crash after the provider has charged and before that
// is recorded. The next one waits for the lease's end and asks the provider with
// the same key. Then the first turns out to be alive, and is told off.
func (s *shop) payWithLease(ctx context.Context) error {
	provider := newFakeProvider()
	defer provider.Close()
	order, err := s.newOrder(ctx, "lease")
	if err != nil {
		return err
	}
	claim, charge, err := s.crashingWorker(ctx, provider, order)
	if err != nil {
		return err
	}

	worker := Payer{Pool: s.pool, Provider: provider, Lease: time.Minute}
	for err = worker.Pay(ctx, order); errors.Is(err, ErrInProgress) && pause(ctx); {
		err = worker.Pay(ctx, order)
	}
	if err != nil {
		return err
	}
	late := worker.Record(ctx, order, *claim.Attempt, charge)
	again, err := worker.Claim(ctx, order)
	if err != nil {
		return err
	}
	history, err := OrderHistory(ctx, s.pool, order.OrderKey)
	if err != nil {
		return err
	}
	calls, charges := provider.counts()
	return first(
		equal("calls", calls, 2),
		equal("charges", charges, 1),
		equal("late record", late, ErrStale),
		equal("payment", again.Outcome, "replayed"),
		equal("attempts", again.Attempt, pointer(int32(2))),
		equal("waited for the lease", again.ClaimedAt.Before(*claim.LeaseUntil), false),
		equal("request keys", requestKeys(history), []*string{nil, &charge}),
	)
}

// crashingWorker has connections of its own, which are gone with it.
func (s *shop) crashingWorker(ctx context.Context, provider Provider, order Order) (claim ClaimResult, charge string, err error) {
	pool, err := Connect(ctx, s.url, s.pooled)
	if err != nil {
		return claim, charge, err
	}
	defer pool.Close()
	worker := Payer{Pool: pool, Provider: provider, Lease: 2 * time.Second}
	if claim, err = worker.Claim(ctx, order); err != nil {
		return claim, charge, err
	}
	charge, err = provider.Charge(ctx, paymentKey(order), *order.Amount)
	return claim, charge, err
}

// webhookInbox delivers twice what can be done, and twice what cannot. What comes
// before its order leaves nothing, and can be done later.
func (s *shop) webhookInbox(ctx context.Context) error {
	key := s.key("webhook")
	paid := Delivery{ID: s.key("delivery-1"), Order: key, Charge: "ch_1"}
	second := Delivery{ID: s.key("delivery-2"), Order: key, Charge: "ch_2"}
	_, early := HandleWebhook(ctx, s.pool, paid)
	order, err := s.newOrder(ctx, "webhook")
	if err != nil {
		return err
	}
	var results []Handled
	for _, delivery := range []Delivery{paid, paid, second, second} {
		handled, err := HandleWebhook(ctx, s.pool, delivery)
		if err != nil {
			return err
		}
		results = append(results, handled)
	}
	order, err = GetOrder(ctx, s.pool, key)
	if err != nil {
		return err
	}
	return first(
		equal("before the order", fmt.Sprint(early), fmt.Sprintf("order %s: missing", key)),
		equal("results", results, []Handled{
			{"applied", false}, {"applied", true}, {"illegal", false}, {"illegal", true},
		}),
		equal("state", order.State, "paid"),
		equal("version", order.Version, int32(2)),
	)
}

// basket is a payload.
type basket struct {
	Lines []line `json:"lines"`
	Note  string `json:"note"`
}

// line is a line of a basket.
type line struct {
	SKU   string `json:"sku"`
	Count int    `json:"count"`
}

// readOrder reads what was written, each type as Go has it.
func (s *shop) readOrder(ctx context.Context) error {
	sent := basket{Lines: []line{{"book", 2}, {"stamp", 1}}, Note: `für "Zoë"`}
	created, err := CreateOrder(ctx, s.pool, NewOrder{
		Key: s.key("read"), Amount: 1 << 40, Currency: "EUR", Account: pointer("alice"), Payload: sent,
		PayWithin: pointer(36 * time.Hour), Headers: map[string]string{"traceparent": "00-1-1-01"},
	})
	if err != nil {
		return err
	}
	paid, err := TransitionOrder(ctx, s.pool, created.OrderKey, "paid", "ch_9")
	if err != nil {
		return err
	}
	order, err := GetOrder(ctx, s.pool, created.OrderKey)
	if err != nil {
		return err
	}
	var received basket
	if err := json.Unmarshal(order.Payload, &received); err != nil {
		return err
	}
	return first(
		equal("amount", order.Amount, pointer(int64(1)<<40)),
		equal("account", order.Account, pointer("alice")),
		equal("payload", received, sent),
		equal("allowed", order.AllowedTransitions, []string{"completed"}),
		equal("created_at", order.CreatedAt.Equal(*created.ChangedAt), true),
		s.readHistory(ctx, created, paid),
		s.checkPrepared(ctx),
	)
}

const findSteps = `SELECT * FROM order_idempotency.order_history($1)
	WHERE event_id = $2 AND at <= $3 AND at > $3 - $4::interval AND state = ANY ($5)`

// readHistory finds steps by parameters of each type.
func (s *shop) readHistory(ctx context.Context, created, paid OrderResult) error {
	history, err := OrderHistory(ctx, s.pool, created.OrderKey)
	if err != nil {
		return err
	}
	found, err := one[Step](ctx, s.pool, findSteps, created.OrderKey, paid.EventID, *paid.ChangedAt, time.Hour,
		[]string{"paid", "completed"})
	if err != nil {
		return err
	}
	return first(
		equal("event_ids", eventIDs(history), []pgtype.UUID{created.EventID, paid.EventID}),
		equal("found", found.Version, int32(2)),
		equal("request key", found.RequestKey, pointer("ch_9")),
	)
}

// checkPrepared looks whether the server has our statement under a name: it shall,
// but not through a pooler. One transaction, so that both come to one session.
func (s *shop) checkPrepared(ctx context.Context) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := GetOrder(ctx, tx, s.key("read")); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT count(*) FROM pg_prepared_statements WHERE statement = $1", getOrder)
		if err != nil {
			return err
		}
		count, err := pgx.CollectOneRow(rows, pgx.RowTo[int])
		return first(err, equal("prepared", count > 0, !s.pooled))
	})
}

// newOrder creates an order and reads it.
func (s *shop) newOrder(ctx context.Context, name string) (Order, error) {
	order := NewOrder{Key: s.key(name), Amount: 4990, Currency: "EUR", Account: pointer("alice")}
	if _, err := CreateOrder(ctx, s.pool, order); err != nil {
		return Order{}, err
	}
	return GetOrder(ctx, s.pool, order.Key)
}

// eventIDs are the events of an order, oldest first.
func eventIDs(history []Step) (ids []pgtype.UUID) {
	for _, step := range history {
		ids = append(ids, step.EventID)
	}
	return ids
}

// requestKeys are the keys of an order's changes, oldest first.
func requestKeys(history []Step) (keys []*string) {
	for _, step := range history {
		keys = append(keys, step.RequestKey)
	}
	return keys
}

// pause waits a little; false if there is no more time.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

// equal says how a value differs from what it should be.
func equal[T any](what string, is, should T) error {
	if reflect.DeepEqual(is, should) {
		return nil
	}
	return fmt.Errorf("%s: %s, not %s", what, show(is), show(should))
}

// show writes a value on one line.
func show(value any) string {
	if text, err := json.Marshal(value); err == nil {
		return string(text)
	}
	return fmt.Sprint(value)
}

// first is the first error that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pointer is for columns and parameters that may be NULL.
func pointer[T any](value T) *T {
	return &value
}

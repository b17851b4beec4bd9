package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	firstPause = 10 * time.Millisecond // before the second try; it doubles from try to try
	lastPause  = 2 * time.Second
	tryTimeout = 30 * time.Second // longer than in_flight_wait; pgx drops the connection then
)

// Worker carries out messages.
type Worker struct {
	pool     *pgxpool.Pool
	patience time.Duration // for what comes before what it needs
	early    sync.Map      // id: since when
	hook     *hook
}

// errGivenBack: not done, and to be handed in again later.
var errGivenBack = errors.New("given back")

// Handle carries a message out, once, however often it is handed in. nil: that is
// committed, and the message is to be acknowledged, whatever became of it.
// errGivenBack: not so, and ctx is over or so many tries were made (0: no bound).
// Any other error is nobody's fault who sent something: the program has to end.
//
// ctx ends no try in its middle, only the pauses.
func (w *Worker) Handle(ctx context.Context, m Message, tries int) error {
	pause := firstPause
	for try := 1; ctx.Err() == nil; try++ {
		err := w.try(m)
		if err == nil {
			w.early.Delete(m.ID)
			w.hook.committed()
			return nil
		}
		if !canRetry(err) {
			return err
		}
		if try == tries {
			break
		}
		if pause >= lastPause/2 {
			log.Printf("%s, message %s, try %d: %v", m.From, m.ID, try, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + time.Duration(rand.Int63n(int64(pause)))):
		}
		if pause *= 2; pause > lastPause {
			pause = lastPause
		}
	}
	return errGivenBack
}

// try makes one try: the message's own transaction, or the one that rejects it.
func (w *Worker) try(m Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	err := w.carryOut(ctx, m)
	if err == nil || !w.isRefused(m, err) {
		return err
	}
	log.Printf("%s, message %s is refused: %v", m.From, m.ID, err)
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return reject(ctx, tx, m, err) })
}

// carryOut is the message's own transaction. A message that makes the program panic
// would else do so for ever.
func (w *Worker) carryOut(ctx context.Context, m Message) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = refusal{fmt.Sprintf("panic: %v", problem)}
		}
	}()
	c, err := m.Command()
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return apply(ctx, tx, m, c) })
}

// A refusal says why a message will never be carried out.
type refusal struct{ reason string }

func (r refusal) Error() string { return r.reason }

// errTaken refuses a message whose id stands for another one.
var errTaken error = refusal{"another message had this id"}

var (
	// errBusy: another transaction has the id or the order.
	errBusy = errors.New("in progress elsewhere")
	// errEarly: what has to come before has not come yet. A repeat that was sent to
	// another partition may be ahead of the first one.
	errEarly = errors.New("the order is not there yet, or not paid yet")
)

// isRefused tells whether it is the message's fault, so that it would be the same
// again: data that cannot be, a constraint, a trigger that objects.
func (w *Worker) isRefused(m Message, err error) bool {
	if errors.Is(err, errEarly) {
		since, _ := w.early.LoadOrStore(m.ID, time.Now())
		return time.Since(since.(time.Time)) > w.patience
	}
	if errors.As(err, new(refusal)) {
		return true
	}
	switch class(err) {
	case "22", "23", "54", "P0":
		return true
	}
	return false
}

// canRetry tells whether another try may do better.
func canRetry(err error) bool {
	if errors.Is(err, errBusy) || errors.Is(err, errEarly) || errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	switch class(err) {
	case "":
		return connectionLost(err)
	case "08", "40", "53", "55", "57", "58": // connection; serialization, deadlock; no room; locked; ended, starting; I/O
		return true
	case "25": // read-only: it was demoted
		return true
	}
	return false
}

// class is the first two characters of a SQLSTATE, or nothing.
func class(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && len(pgErr.Code) == 5 {
		return pgErr.Code[:2]
	}
	return ""
}

// connectionLost tells whether the connection failed or timed out: then nobody
// knows whether the server did it, and the claim will tell.
func connectionLost(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		pgconn.SafeToRetry(err) || pgconn.Timeout(err)
}

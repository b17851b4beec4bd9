// A consumer that takes commands from Kafka or RabbitMQ and carries each out once: see README.md.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const usage = "usage: pipeline kafka | rabbitmq | send-kafka | send-rabbitmq"

// programs are what the one argument chooses from.
var programs = map[string]func(context.Context) error{
	"kafka":         withWorker(consumeKafka),
	"rabbitmq":      withWorker(consumeRabbitMQ),
	"send-kafka":    sendKafka,
	"send-rabbitmq": sendRabbitMQ,
}

// setting is an environment variable, or what holds without it.
func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// number is a setting that is a whole number.
func number(name string, otherwise int) int {
	value, err := strconv.Atoi(setting(name, strconv.Itoa(otherwise)))
	if err != nil {
		log.Fatalf("%s is not a whole number", name)
	}
	return value
}

// duration is a setting such as 30s.
func duration(name, otherwise string) time.Duration {
	value, err := time.ParseDuration(setting(name, otherwise))
	if err != nil {
		log.Fatalf("%s is not a duration such as 30s", name)
	}
	return value
}

// withWorker gives a consumer what carries out its messages.
func withWorker(consume func(context.Context, *Worker) error) func(context.Context) error {
	return func(ctx context.Context) error {
		// it connects when it is used: the server may be away now
		pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
		if err != nil {
			return err
		}
		defer pool.Close()
		log.Print("at work")
		return consume(ctx, &Worker{pool: pool, patience: duration("PATIENCE", "30s"), hook: newHook()})
	}
}

func main() {
	// SIGTERM ends no message in its middle: see Worker.Handle
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) != 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err := programs[os.Args[1]](ctx); err != nil {
		log.Fatal(err)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	prefetch     = 50
	reconnect    = 500 * time.Millisecond
	heartbeat    = 10 * time.Second
	dialDeadline = 5 * time.Second
)

// laneQueue is the name of one of the queues that commands are spread over. Those of an
// order go through one queue, which has one active consumer, and so stay in order.
func laneQueue(lane int) string {
	return fmt.Sprintf("%s.%d", setting("COMMANDS", "commands"), lane)
}

// dialRabbitMQ connects, and declares the queues where they are not there yet.
func dialRabbitMQ() (*amqp.Connection, error) {
	conn, err := amqp.DialConfig(setting("RABBITMQ", "amqp://127.0.0.1"),
		amqp.Config{Heartbeat: heartbeat, Dial: amqp.DefaultDial(dialDeadline)})
	if err != nil {
		return nil, err
	}
	if err = within(conn, dialDeadline, func() error { return declareLanes(conn) }); err != nil {
		conn.CloseDeadline(time.Now().Add(brokerEnd))
		return nil, err
	}
	return conn, nil
}

// within does something that asks the broker, and closes the connection where that takes longer:
// one that was made while the broker was starting may never be answered.
func within(conn *amqp.Connection, most time.Duration, do func() error) error {
	watchdog := time.AfterFunc(most, func() { conn.CloseDeadline(time.Now()) })
	defer watchdog.Stop()
	return do()
}

// declareLanes declares the queues.
func declareLanes(conn *amqp.Connection) error {
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	defer channel.Close()
	arguments := amqp.Table{"x-queue-type": "quorum", "x-single-active-consumer": true}
	for lane := 0; lane < number("LANES", 4) && err == nil; lane++ {
		_, err = channel.QueueDeclare(laneQueue(lane), true, false, false, false, arguments)
	}
	return err
}

// consumeRabbitMQ takes messages from all queues, on one connection after the other.
func consumeRabbitMQ(ctx context.Context, w *Worker) error {
	for ctx.Err() == nil {
		err := rabbitSession(ctx, w)
		if err != nil && !errors.Is(err, errGivenBack) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
	return nil
}

// rabbitSession takes messages until ctx or the connection ends, or a lane fails. Only the
// last is an error.
func rabbitSession(ctx context.Context, w *Worker) error {
	conn, err := dialRabbitMQ()
	if err != nil {
		log.Printf("could not connect to RabbitMQ: %v", err)
		return nil
	}
	defer func() { conn.CloseDeadline(time.Now().Add(brokerEnd)) }()
	ctx, end := context.WithCancel(ctx)
	defer end()

	var group sync.WaitGroup
	failures := make(chan error, number("LANES", 4))
	for lane := 0; lane < number("LANES", 4); lane++ {
		queue := laneQueue(lane)
		group.Add(1)
		go func() {
			defer group.Done()
			defer end() // all or none
			failures <- rabbitLane(ctx, w, conn, queue)
		}()
	}
	group.Wait()
	close(failures)
	for failure := range failures {
		if failure != nil && !errors.Is(failure, errGivenBack) {
			return failure
		}
	}
	return nil
}

// rabbitLane carries out the messages of one queue in their order. Each is acknowledged
// when the database has committed; what is not acknowledged when the channel ends comes again.
func rabbitLane(ctx context.Context, w *Worker, conn *amqp.Connection, queue string) error {
	channel, deliveries, err := subscribe(conn, queue)
	if err != nil {
		log.Printf("queue %s: %v", queue, err)
		return nil
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		if problem := <-closed; problem != nil {
			log.Printf("queue %s: %v", queue, problem)
		}
		end()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case delivery, ok := <-deliveries:
			if !ok {
				return nil
			}
			message := NewMessage(delivery.MessageId, delivery.Body, place(queue, int64(delivery.DeliveryTag)))
			if err := w.Handle(ctx, message, 0); err != nil {
				return err
			}
			if err := delivery.Ack(false); err != nil {
				return nil
			}
		}
	}
}

// subscribe begins to consume a queue.
func subscribe(conn *amqp.Connection, queue string) (*amqp.Channel, <-chan amqp.Delivery, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, nil, err
	}
	if err = channel.Qos(prefetch, 0, false); err != nil {
		return nil, nil, err
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	return channel, deliveries, err
}

// place names where a message lay.
func place(name string, numbers ...int64) string {
	for _, number := range numbers {
		name += fmt.Sprintf("/%d", number)
	}
	return name
}

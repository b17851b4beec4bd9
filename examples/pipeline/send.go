package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Line is a line of standard input: a message to be sent.
type Line struct {
	ID    string          `json:"id"`
	Route string          `json:"route"` // what of one route is sent stays in order: the order's key
	Body  json.RawMessage `json:"body"`  // a command; of a JSON string, its text
}

// bytes are what is sent as the body.
func (l Line) bytes() []byte {
	var text string
	if json.Unmarshal(l.Body, &text) == nil {
		return []byte(text)
	}
	return l.Body
}

// eachLine reads standard input and calls a function for each line, until one fails.
func eachLine(send func(Line) error) error {
	decoder := json.NewDecoder(bufio.NewReaderSize(os.Stdin, 1<<20))
	for {
		var line Line
		switch err := decoder.Decode(&line); {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("could not read standard input: %w", err)
		}
		if err := send(line); err != nil {
			return err
		}
	}
}

// sendKafka sends lines as records. The client is an idempotent producer: it tries
// again without making duplicates, as long as it lives.
func sendKafka(ctx context.Context) error {
	ctx, fail := context.WithCancel(ctx)
	defer fail()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(setting("KAFKA", "127.0.0.1:9092"), ",")...),
		kgo.DefaultProduceTopic(setting("COMMANDS", "commands")),
		kgo.RequiredAcks(kgo.AllISRAcks()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	err = eachLine(func(line Line) error {
		record := &kgo.Record{Key: []byte(line.Route), Value: line.bytes(),
			Headers: []kgo.RecordHeader{{Key: idHeader, Value: []byte(line.ID)}}}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			if err != nil {
				log.Printf("message %s: %v", line.ID, err)
				fail()
			}
		})
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	return ctx.Err()
}

// sendBatch is how many messages wait for their confirms together.
const sendBatch = 200

// sendRabbitMQ publishes lines as persistent messages. Those whose confirms did not come are
// published again, in their order: some of them may be there twice then.
func sendRabbitMQ(ctx context.Context) error {
	sender := &rabbitSender{}
	defer sender.close()
	var batch []Line
	err := eachLine(func(line Line) error {
		if len(line.ID) > maxID { // the library would cut it
			return fmt.Errorf("message_id is longer than %d bytes: %s", maxID, line.ID)
		}
		batch = append(batch, line)
		if len(batch) < sendBatch {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return sender.send(ctx, batch)
	})
	if err != nil {
		return err
	}
	return sender.send(ctx, batch)
}

// rabbitSender has a channel in confirm mode, or none.
type rabbitSender struct {
	conn    *amqp.Connection
	channel *amqp.Channel
}

// close gives the connection up, also where the broker says nothing any more.
func (s *rabbitSender) close() {
	if s.conn != nil {
		s.conn.CloseDeadline(time.Now().Add(brokerEnd))
	}
	s.conn, s.channel = nil, nil
}

// open connects, if there is no connection.
func (s *rabbitSender) open() (err error) {
	if s.channel != nil && !s.channel.IsClosed() {
		return nil
	}
	s.close()
	if s.conn, err = dialRabbitMQ(); err != nil {
		s.conn = nil
		return err
	}
	return within(s.conn, dialDeadline, func() (err error) {
		if s.channel, err = s.conn.Channel(); err != nil {
			return err
		}
		return s.channel.Confirm(false)
	})
}

// send publishes messages until all of them are confirmed.
func (s *rabbitSender) send(ctx context.Context, lines []Line) error {
	for {
		err := s.open()
		if err == nil {
			err = s.publish(ctx, lines)
		}
		if err == nil {
			return nil
		}
		log.Printf("could not send, trying again: %v", err)
		s.close()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reconnect):
		}
	}
}

// confirmTime is how long to wait for confirms. A broker that was killed can come back without
// those of a queue that had no leader yet.
const confirmTime = 10 * time.Second

// publish publishes messages and waits for their confirms.
func (s *rabbitSender) publish(ctx context.Context, lines []Line) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	var confirms []*amqp.DeferredConfirmation
	for _, line := range lines {
		message := amqp.Publishing{MessageId: line.ID, Body: line.bytes(), DeliveryMode: amqp.Persistent}
		confirm, err := s.channel.PublishWithDeferredConfirmWithContext(ctx, "", laneOf(line.Route), false, false, message)
		if err != nil {
			return err
		}
		confirms = append(confirms, confirm)
	}
	for _, confirm := range confirms {
		if ok, err := confirm.WaitContext(ctx); err != nil || !ok {
			return fmt.Errorf("not confirmed: %v", err)
		}
	}
	return nil
}

// laneOf is the queue for a route.
func laneOf(route string) string {
	hash := fnv.New32a()
	hash.Write([]byte(route))
	return laneQueue(int(hash.Sum32() % uint32(number("LANES", 4))))
}

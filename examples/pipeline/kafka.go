package main

import (
	"context"
	"errors"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partBytes = 128 << 10       // of each partition in a round, or one batch that is larger
	roundTime = 2 * time.Second // after which what is left is for the next round
	tries     = 5               // of a record in a round
	idHeader  = "ce_id"
	brokerEnd = 5 * time.Second // how long a broker is waited for that may be away
)

// consumeKafka takes records in rounds: fetch some, carry out those of each
// partition one after the other and those of different ones at the same time, commit
// how far each came. Between two rounds, and only there, partitions come and go.
func consumeKafka(ctx context.Context, w *Worker) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(setting("KAFKA", "127.0.0.1:9092"), ",")...),
		kgo.ConsumerGroup(setting("GROUP", "pipeline")),
		kgo.ConsumeTopics(setting("COMMANDS", "commands")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // of a group that is new
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMaxPartitionBytes(partBytes),
		kgo.SessionTimeout(duration("SESSION_TIMEOUT", "10s")),
		kgo.HeartbeatInterval(duration("SESSION_TIMEOUT", "10s")/5),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return err
	}
	for ctx.Err() == nil && err == nil {
		err = kafkaRound(ctx, client, w)
	}
	leaving, cancel := context.WithTimeout(context.Background(), brokerEnd)
	defer cancel()
	if problem := client.LeaveGroupContext(leaving); problem != nil {
		log.Printf("could not leave the group: %v", problem)
	}
	return err
}

// kafkaRound is one round. Offsets are committed after the database has committed: who
// is killed in between gets the records again, and the claims tell that they were done.
//
// A poll for so many records would give those of one partition after the other, and leave
// nothing to be done at the same time. So this takes all, and bounds the time.
func kafkaRound(ctx context.Context, client *kgo.Client, w *Worker) error {
	fetches := client.PollFetches(ctx)
	defer client.AllowRebalance()
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	fetches.EachError(func(topic string, partition int32, err error) {
		if !errors.Is(err, context.Canceled) {
			log.Printf("topic %q, partition %d: %v", topic, partition, err)
		}
	})

	var mutex sync.Mutex
	var group sync.WaitGroup
	var done []*kgo.Record // the last one of each partition
	var failure error
	again := map[string]map[int32]kgo.EpochOffset{}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		group.Add(1)
		go func() {
			defer group.Done()
			count, err := kafkaLane(ctx, w, p.Records)
			mutex.Lock()
			defer mutex.Unlock()
			if err != nil && !errors.Is(err, errGivenBack) {
				failure = err
			}
			if count > 0 {
				done = append(done, p.Records[count-1])
			}
			if count < len(p.Records) {
				next := p.Records[count]
				if again[p.Topic] == nil {
					again[p.Topic] = map[int32]kgo.EpochOffset{}
				}
				again[p.Topic][p.Partition] = kgo.EpochOffset{Epoch: next.LeaderEpoch, Offset: next.Offset}
			}
		}()
	})
	group.Wait()
	commitOffsets(client, done)
	client.SetOffsets(again) // fetch these again
	return failure
}

// kafkaLane carries out records of one partition in their order, and says how many.
// What cannot be done now is left for a later round, and all behind it: it may need
// what is in another partition.
func kafkaLane(ctx context.Context, w *Worker, records []*kgo.Record) (done int, err error) {
	for _, record := range records {
		if err := w.Handle(ctx, kafkaMessage(record), tries); err != nil {
			return done, err
		}
		done++
	}
	return done, nil
}

// kafkaMessage makes a message of a record.
func kafkaMessage(record *kgo.Record) Message {
	var id string
	for _, header := range record.Headers {
		if header.Key == idHeader {
			id = string(header.Value)
		}
	}
	return NewMessage(id, record.Value, place(record.Topic, int64(record.Partition), record.Offset))
}

// commitOffsets commits how far each partition came. Without an answer the records come
// again; that is no harm.
func commitOffsets(client *kgo.Client, done []*kgo.Record) {
	if len(done) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), brokerEnd)
	defer cancel()
	if err := client.CommitRecords(ctx, done...); err != nil {
		log.Printf("could not commit offsets: %v", err)
	}
}

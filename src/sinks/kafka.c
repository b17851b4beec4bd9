/*-------------------------------------------------------------------------
 *
 * kafka.c
 *		The sink "kafka": topics of Apache Kafka, exactly once.
 *
 * A delivery is a transaction, which has its number as well; see
 * kafka_transaction.c and kafka_state.c.  With option exactly_once off it is
 * messages that all replicas in sync have acknowledged (acks=all, by an
 * idempotent producer), each at least once, and the subscription needs no
 * numbers.
 *
 * What went wrong on the way leaves things unknown: the handle is ended then,
 * so that nothing is sent any more that we do not know of, and the next delivery
 * begins with a new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fault.h"
#include "fmgr.h"
#include "kafka_sink.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* ms that a start may take; it is tried again */
#define START_TIMEOUT 10000

#define DEFAULT_STATE_TOPIC "order_idempotency"

/* where the last event of a key was sent to; hash: of the key */
typedef struct SentKey
{
	uint64		hash;
	const char *topic;
	int			waits;			/* waits for all answers until then */
} SentKey;

/*
 * The name of the state topic.
 */
static const char *
state_topic_of(const OiSinkState *state)
{
	const char *topic = oi_sink_option(state->options, "state_topic");

	return topic ? topic : DEFAULT_STATE_TOPIC;
}

/*
 * Callback: is everything there?  A topic without a placeholder is that of all events.
 */
static const char *
kafka_check_configured(OiSinkState *state)
{
	if (oi_sink_option(state->options, "bootstrap.servers") == NULL)
		return "option \"bootstrap.servers\" is missing";
	if (strchr(state->topic, '{') == NULL)
		return kafka_topic_fault(state->topic, state_topic_of(state));
	return NULL;
}

/*
 * Make the producer, and with transactions learn what the receiver has.
 */
void
kafka_open(KafkaSink *sink, TimestampTz deadline)
{
	sink->producer = kafka_new_handle(sink, RD_KAFKA_PRODUCER);
	if (sink->transactions)
		kafka_enter_transactions(sink, deadline);
}

/*
 * Has the receiver the delivery that the database last recorded?
 */
static bool
is_marked(const KafkaSink *sink)
{
	return sink->marker.number != 0 && sink->marker.number == sink->state->token.number &&
		sink->marker.timeline == sink->state->token.timeline;
}

/*
 * Callback: connect.
 */
static void
kafka_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	KafkaSink  *sink = palloc0(sizeof(KafkaSink));
	const char *exactly_once = oi_sink_option(state->options, "exactly_once");

	sink->state = state;
	sink->inbox = kafka_new_inbox(oi_sink_option(state->options, "allow_addresses"));
	sink->transactions = true;
	if (exactly_once != NULL)
		(void) parse_bool(exactly_once, &sink->transactions);
	sink->state_name = pstrdup(state_topic_of(state));
	state->private_data = sink;
	MemoryContextSwitchTo(old);

	state->numbered = sink->transactions;
	kafka_open(sink, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), START_TIMEOUT));
	if (!sink->transactions)
		return;
	state->knows_receiver = true;

	/*
	 * what was made without some of its events is not all delivered: deliver
	 * says which
	 */
	if (sink->without[0] == '\0' || !is_marked(sink))
		state->receiver = sink->marker;
}

/*
 * Wait until all messages have an answer, or time is up, or the handle is at its end.
 */
static void
await_acknowledged(KafkaSink *sink, TimestampTz deadline)
{
	while (sink->inbox->unanswered > 0 && GetCurrentTimestamp() < deadline)
	{
		CHECK_FOR_INTERRUPTS();
		(void) rd_kafka_flush(sink->producer, KAFKA_SLICE);
		if (rd_kafka_fatal_error(sink->producer, NULL, 0) != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			/* what is behind it goes nowhere any more */
			rd_kafka_purge(sink->producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
			(void) rd_kafka_flush(sink->producer, KAFKA_SLICE);
			return;
		}
	}
}

/*
 * Was an event of the same key before this one not taken?
 */
static bool
is_held(const KafkaSink *sink, const OiSinkEvent *events, int which)
{
	for (int i = 0; i < which; i++)
		if (sink->inbox->answers[i] != KAFKA_NO_ANSWER &&
			kafka_verdict(sink->inbox->answers[i]) != KAFKA_DELIVERED &&
			strcmp(events[i].key, events[which].key) == 0)
			return true;
	return false;
}

/*
 * Is an event of the same key on its way to another topic?  Those of one topic go
 * to one partition, and there none overtakes another.  Takes note of this event.
 */
static bool
is_elsewhere(HTAB *sent, const OiSinkEvent *event, int waits)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) event->key, strlen(event->key), 0);
	bool		found;
	SentKey    *entry = hash_search(sent, &hash, HASH_ENTER, &found);
	bool		elsewhere = found && entry->waits == waits && strcmp(entry->topic, event->topic) != 0;

	entry->topic = event->topic;
	entry->waits = waits + elsewhere;
	return elsewhere;
}

/*
 * Send events, those of a key behind one that was not taken left out.  Singly: each
 * is waited for before the next is sent.
 */
static void
send_acknowledged(KafkaSink *sink, const OiSinkEvent *events, int n, bool singly, TimestampTz deadline)
{
	HASHCTL		ctl = {.keysize = sizeof(uint64),.entrysize = sizeof(SentKey),.hcxt = CurrentMemoryContext};
	HTAB	   *sent = hash_create("order_idempotency keys sent", n, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	bool		refused = false;
	bool		timely = true;
	int			waits = 0;

	for (int i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t code;

		if (events[i].reason != NULL)
			continue;
		if (is_elsewhere(sent, &events[i], waits) || singly)
		{
			kafka_find_topics(sink);
			await_acknowledged(sink, deadline);
			timely = sink->inbox->unanswered == 0;
			waits++;
			refused = true;		/* or may be */
		}
		code = !timely || (refused && is_held(sink, events, i)) ? RD_KAFKA_RESP_ERR__PURGE_QUEUE :
			kafka_send(sink, &events[i], i);
		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
			sink->inbox->answers[i] = code;
		refused |= code != RD_KAFKA_RESP_ERR_NO_ERROR;
		CHECK_FOR_INTERRUPTS();
		if (i % 64 == 63)
			rd_kafka_poll(sink->producer, 0);
	}
	hash_destroy(sent);
}

/*
 * Make outcomes of the answers.  False: some that were sent were not delivered.
 */
static bool
judge_acknowledged(KafkaSink *sink, OiSinkEvent *events, int n, bool *singly)
{
	int			rejected = 0;
	bool		all = true;

	for (int i = 0; i < n; i++)
		rejected += kafka_verdict(sink->inbox->answers[i]) == KAFKA_REJECTED;
	for (int i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t answer = sink->inbox->answers[i];
		KafkaVerdict verdict = kafka_verdict(answer);

		if (events[i].reason != NULL)
			continue;
		if (verdict == KAFKA_DELIVERED)
		{
			events[i].outcome = OI_SINK_DELIVERED;
			continue;
		}
		all = false;
		if (verdict == KAFKA_UNTRIED || (verdict == KAFKA_REJECTED && rejected > 1 && !*singly))
			continue;			/* a batch is refused for one in it: which
								 * one? */
		if (verdict == KAFKA_REJECTED)
			events[i].outcome = OI_SINK_REJECTED;
		events[i].reason = answer == KAFKA_NO_ANSWER ?
			psprintf("no answer in time%s", kafka_complaint(sink)) :
			psprintf("Kafka: %s%s", rd_kafka_err2str(answer),
					 verdict == KAFKA_TROUBLE ? kafka_complaint(sink) : "");
	}
	*singly = rejected > 1;
	return all;
}

/*
 * Deliver events without a transaction.
 */
static void
deliver_acknowledged(KafkaSink *sink, OiSinkEvent *events, int n, TimestampTz deadline)
{
	static bool singly = false; /* the last answers leave open which was to
								 * blame */

	kafka_begin_round(sink);
	oi_sink_fault("kafka:begun");
	send_acknowledged(sink, events, n, singly, deadline);
	oi_sink_fault("kafka:sent");
	kafka_find_topics(sink);
	await_acknowledged(sink, deadline);
	if (!judge_acknowledged(sink, events, n, &singly))
		kafka_close(sink, KAFKA_END_HANDLES);
}

/*
 * Callback: send the events.
 */
static void
kafka_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	KafkaSink  *sink = state->private_data;

	PG_TRY();
	{
		if (sink->producer == NULL)
			kafka_open(sink, deadline);
		if (is_marked(sink))
			kafka_note_delivered(sink, events, n);
		else
		{
			kafka_reject_topics(sink, events, n);
			if (sink->transactions)
				kafka_deliver_transaction(sink, events, n, deadline);
			else
				deliver_acknowledged(sink, events, n, deadline);
		}
	}
	PG_CATCH();
	{
		kafka_close(sink, KAFKA_END_HANDLES);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Callback: let go of everything.
 */
static void
kafka_shutdown(OiSinkState *state)
{
	KafkaSink  *sink = state->private_data;

	if (sink != NULL)
		kafka_close(sink, KAFKA_END_PROCESS);
}

static const OiSinkCallbacks kafka_callbacks = {
	.magic = OI_SINK_MAGIC,
	.check_configured = kafka_check_configured,
	.startup = kafka_startup,
	.deliver = kafka_deliver,
	.shutdown = kafka_shutdown,
	.numbered = true
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &kafka_callbacks;
}

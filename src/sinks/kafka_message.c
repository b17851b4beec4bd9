/*-------------------------------------------------------------------------
 *
 * kafka_message.c
 *		An event as a message, and what its answer means.
 *
 * CloudEvents in binary mode: attributes are headers with the prefix "ce_", the
 * value is the payload.  The key is the event's, and chooses the partition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "kafka_sink.h"
#include "miscadmin.h"
#include "shared_headers.h"

#define PREFIX "ce_"

/* bytes of a topic's name, which is that of a directory at the broker */
#define MOST_TOPIC 249

/* the names of the usual headers */
static const char *const names[] = OI_HEADERS_NAMES(PREFIX);

/*
 * Why events cannot go to a topic; NULL: they can.  In the state topic they would be
 * taken for markers: its records are told apart by their keys, and those of events
 * are chosen by application roles.
 */
const char *
kafka_topic_fault(const char *topic, const char *state_topic)
{
	if (strlen(topic) > MOST_TOPIC)
		return psprintf("topic is longer than %d bytes", MOST_TOPIC);
	if (strcmp(topic, state_topic) == 0)
		return psprintf("topic \"%s\" is the state topic", topic);
	return NULL;
}

/*
 * Set aside an event that is not taken, and those behind it of its key.
 */
void
kafka_set_aside(OiSinkEvent *events, int n, int which, OiSinkOutcome outcome, const char *reason)
{
	if (events[which].reason != NULL)
		return;
	events[which].outcome = outcome;
	events[which].reason = reason;
	for (int i = which + 1; i < n; i++)
		if (events[i].reason == NULL && strcmp(events[i].key, events[which].key) == 0)
			events[i].reason = "not sent: one of its key before it was not taken";
}

/*
 * Reject the events that cannot go where they are to go.  They are not sent, so
 * that none of them is the end of a transaction.
 */
void
kafka_reject_topics(const KafkaSink *sink, OiSinkEvent *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		const char *fault = kafka_topic_fault(events[i].topic, sink->state_name);

		if (fault != NULL)
			kafka_set_aside(events, n, i, OI_SINK_REJECTED, fault);
	}
}

/*
 * Forget all answers: messages are sent from here on.
 */
void
kafka_begin_round(KafkaSink *sink)
{
	KafkaInbox *inbox = sink->inbox;

	inbox->round++;
	inbox->unanswered = 0;
	inbox->own_answer = KAFKA_NO_ANSWER;
	inbox->own_offset = -1;
	for (int i = 0; i < OI_SINK_MAX_EVENTS; i++)
		inbox->answers[i] = KAFKA_NO_ANSWER;
}

/*
 * The headers of an event; trace context besides under the names that W3C gives
 * it.
 */
static rd_kafka_headers_t *
make_headers(const OiSinkState *state, const OiSinkEvent *event)
{
	int			n;
	OiSinkHeader *attributes = oi_cloudevent_attributes(state, event, &n);
	rd_kafka_headers_t *headers = rd_kafka_headers_new(n + 2);

	for (int i = 0; i < n; i++)
	{
		const char *name = attributes[i].name;
		const char *value = attributes[i].value;

		if (strcmp(name, "datacontenttype") == 0)
		{
			(void) rd_kafka_header_add(headers, "content-type", -1, value, -1);
			continue;
		}
		(void) rd_kafka_header_add(headers, oi_headers_name(names, PREFIX, name), -1, value, -1);
		if (strcmp(name, "traceparent") == 0 || strcmp(name, "tracestate") == 0)
			(void) rd_kafka_header_add(headers, name, -1, value, -1);
	}
	pfree(attributes);
	return headers;
}

/*
 * Note a topic that messages go to: is it new to this producer?
 */
static void
note_topic(KafkaSink *sink, const char *topic)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) topic, strlen(topic), 0);
	bool		found;

	if (sink->topics == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(uint64),.entrysize = sizeof(uint64),.hcxt = sink->state->context};

		sink->topics = hash_create("order_idempotency topics", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(sink->topics, &hash, HASH_ENTER, &found);
	sink->new_topics |= !found;
}

/*
 * All messages are handed over: have librdkafka look where the topics are that are new
 * to it.  By itself it does so once a second.
 */
void
kafka_find_topics(KafkaSink *sink)
{
	const rd_kafka_metadata_t *metadata = NULL;

	if (!sink->new_topics)
		return;
	sink->new_topics = false;
	if (rd_kafka_metadata(sink->producer, 0, NULL, &metadata, KAFKA_SLICE) == RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_metadata_destroy(metadata);
}

/*
 * Hand a message over to librdkafka, which copies it.  Where its queue is full,
 * wait: it is being sent.
 */
static rd_kafka_resp_err_t
produce(KafkaSink *sink, const rd_kafka_vu_t *parts, int n)
{
	while (true)
	{
		rd_kafka_error_t *error = rd_kafka_produceva(sink->producer, parts, n);
		rd_kafka_resp_err_t code;

		if (error == NULL)
			return RD_KAFKA_RESP_ERR_NO_ERROR;
		code = rd_kafka_error_code(error);
		rd_kafka_error_destroy(error);
		if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			return code;
		CHECK_FOR_INTERRUPTS();
		rd_kafka_poll(sink->producer, KAFKA_SLICE);
	}
}

/*
 * What comes back with the answer to a message.
 */
static void *
opaque_of(const KafkaSink *sink, int index)
{
	return (void *) ((uintptr_t) sink->inbox->round * KAFKA_INDEXES + index);
}

/*
 * Send an event.  An event without a payload has an empty value, not none, which
 * would be the end of its key in a compacted topic.
 */
rd_kafka_resp_err_t
kafka_send(KafkaSink *sink, const OiSinkEvent *event, int index)
{
	const char *value = event->payload ? event->payload : "";
	rd_kafka_headers_t *headers = make_headers(sink->state, event);
	rd_kafka_vu_t parts[] = {
		{.vtype = RD_KAFKA_VTYPE_TOPIC,.u.cstr = event->topic},
		{.vtype = RD_KAFKA_VTYPE_KEY,.u.mem = {(void *) event->key, strlen(event->key)}},
		{.vtype = RD_KAFKA_VTYPE_VALUE,.u.mem = {(void *) value, strlen(value)}},
		{.vtype = RD_KAFKA_VTYPE_HEADERS,.u.headers = headers},
		{.vtype = RD_KAFKA_VTYPE_MSGFLAGS,.u.i = RD_KAFKA_MSG_F_COPY},
		{.vtype = RD_KAFKA_VTYPE_OPAQUE,.u.ptr = opaque_of(sink, index)},
	};
	rd_kafka_resp_err_t code = produce(sink, parts, lengthof(parts));

	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		sink->inbox->unanswered++;
		note_topic(sink, event->topic);
	}
	else
		rd_kafka_headers_destroy(headers);
	return code;
}

/*
 * Send a record of our own to the state topic.
 */
rd_kafka_resp_err_t
kafka_send_own(KafkaSink *sink, const char *key, const char *value)
{
	rd_kafka_vu_t parts[] = {
		{.vtype = RD_KAFKA_VTYPE_TOPIC,.u.cstr = sink->state_name},
		{.vtype = RD_KAFKA_VTYPE_PARTITION,.u.i32 = KAFKA_STATE_PARTITION},
		{.vtype = RD_KAFKA_VTYPE_KEY,.u.mem = {(void *) key, strlen(key)}},
		{.vtype = RD_KAFKA_VTYPE_VALUE,.u.mem = {(void *) value, strlen(value)}},
		{.vtype = RD_KAFKA_VTYPE_MSGFLAGS,.u.i = RD_KAFKA_MSG_F_COPY},
		{.vtype = RD_KAFKA_VTYPE_OPAQUE,.u.ptr = opaque_of(sink, OI_SINK_MAX_EVENTS)},
	};

	note_topic(sink, sink->state_name);
	return produce(sink, parts, lengthof(parts));
}

/*
 * What an answer means.  docs/sinks.md has it as a table.
 */
KafkaVerdict
kafka_verdict(rd_kafka_resp_err_t answer)
{
	switch (answer)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return KAFKA_DELIVERED;
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return KAFKA_REJECTED;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return KAFKA_REFUSED;
		case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
		case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
		case RD_KAFKA_RESP_ERR__FATAL:
		case RD_KAFKA_RESP_ERR__STATE:
		case RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE:
		case RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER:
			return KAFKA_UNTRIED;
		default:
			return KAFKA_TROUBLE;
	}
}

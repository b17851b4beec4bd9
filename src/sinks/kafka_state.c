/*-------------------------------------------------------------------------
 *
 * kafka_state.c
 *		What Kafka remembers of a subscription: the state topic.
 *
 * A delivery and its marker, a record with the delivery's number and timeline, are
 * one transaction.  So whoever reads the last marker knows which deliveries are
 * there.  Offsets of a consumer group would do the same, but expire; records of
 * a compacted topic stay.  Two keys for each subscription:
 *
 *		IDENTITY			the marker
 *		IDENTITY.start		written at each start: the timeline of who started
 *
 * A start
 *
 *	1. looks whether a server on a later timeline has started.  Then this one is a
 *	   former primary, and must not take over again: they would do it by turns.
 *	2. takes over: from init_transactions on whoever had the transactional id before
 *	   is fenced, and what he left open is committed or aborted.
 *	3. writes its own start, and reads up to that, only what is committed.  All
 *	   markers are before it, and it can only be read when the transactions of
 *	   others that were open then are over.
 *
 * The topic is read from near its end, and farther from it as long as no marker
 * is found.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fault.h"
#include "kafka_sink.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/* records that are read first, and how many times as many then */
#define FIRST_LOOK 1000
#define LOOK_FACTOR 32

/* how long a value of ours may be */
#define MAX_VALUE (64 * 1024)

#define MARKER_FORMAT "{\"number\": " INT64_FORMAT ", \"timeline\": %u"

/* what was found in the state topic; numbers and timelines of 0: nothing */
typedef struct Found
{
	OiSinkToken marker;
	OiSinkToken start;			/* number: 0 */
	char		without[MAX_VALUE]; /* of the marker */
} Found;

/*
 * The key of a subscription's starts.
 */
static char *
start_key(const KafkaSink *sink)
{
	return psprintf("%s.start", sink->state->identity);
}

/*
 * Send the marker of the delivery that is made, with the indexes of its events that
 * are not there.
 */
void
kafka_send_marker(KafkaSink *sink, const char *without)
{
	char	   *value = psprintf(MARKER_FORMAT ", \"without\": \"%s\"}", sink->state->token.number,
								 sink->state->token.timeline, without);

	(void) kafka_send_own(sink, sink->state->identity, value);
	pfree(value);
}

/*
 * Take a record of the state topic down, if it is of this subscription.
 */
static void
take_record(const KafkaSink *sink, const rd_kafka_message_t *message, Found *found)
{
	size_t		len = strlen(sink->state->identity);
	const char *key = message->key;
	char		value[MAX_VALUE];
	OiSinkToken token;
	bool		start;

	if (message->key_len < len || memcmp(key, sink->state->identity, len) != 0 ||
		message->len >= sizeof(value))
		return;
	start = message->key_len == len + strlen(".start") &&
		memcmp(key + len, ".start", strlen(".start")) == 0;
	if (!start && message->key_len != len)
		return;
	memcpy(value, message->payload ? message->payload : "", message->len);
	value[message->len] = '\0';
	if (sscanf(value, MARKER_FORMAT, &token.number, &token.timeline) != 2)
		return;
	if (start)
		found->start = token;
	else
	{
		found->marker = token;
		found->without[0] = '\0';
		(void) sscanf(value, "%*[^w]without\": \"%[0-9,]", found->without);
	}
}

/*
 * Read the state topic from one offset until another, the end of what is there
 * if that is less.
 */
static void
read_part(KafkaSink *sink, int64 from, int64 until, TimestampTz deadline, Found *found)
{
	bool		done = false;
	rd_kafka_resp_err_t code;

	if (rd_kafka_consume_start(sink->state_topic, KAFKA_STATE_PARTITION,
							   from > 0 ? from : RD_KAFKA_OFFSET_BEGINNING) != 0)
		kafka_report_topic(sink, "read", rd_kafka_last_error());
	while (!done)
	{
		rd_kafka_message_t *message;

		kafka_check_time(sink, deadline, psprintf("read topic \"%s\" to its end", sink->state_name));
		message = rd_kafka_consume(sink->state_topic, KAFKA_STATE_PARTITION, KAFKA_SLICE);
		if (message == NULL)
			continue;
		done = (message->err == RD_KAFKA_RESP_ERR_NO_ERROR && message->offset + 1 >= until) ||
			(message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF && message->offset >= until);
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR && message->offset < until)
			take_record(sink, message, found);
		code = message->err;
		rd_kafka_message_destroy(message);
		if (code != RD_KAFKA_RESP_ERR_NO_ERROR && kafka_is_final(code))
			kafka_report_topic(sink, "read", code);
	}
	(void) rd_kafka_consume_stop(sink->state_topic, KAFKA_STATE_PARTITION);
}

/*
 * Look for the last records of this subscription before an offset.
 */
static void
look_back(KafkaSink *sink, int64 until, TimestampTz deadline, Found *found)
{
	int64		look = FIRST_LOOK;
	int64		from;

	do
	{
		memset(found, 0, sizeof(*found));
		from = until - look;
		if (until > 0)
			read_part(sink, from, until, deadline, found);
		look *= LOOK_FACTOR;
	} while (from > 0 && found->marker.number == 0);
}

/*
 * Has a server on a later timeline started?
 */
static void
check_timeline(KafkaSink *sink, TimestampTz deadline)
{
	int64		low;
	int64		high;
	uint32		later;
	Found		found;

	while (rd_kafka_query_watermark_offsets(sink->reader, sink->state_name, KAFKA_STATE_PARTITION,
											&low, &high, KAFKA_SLICE) != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		kafka_check_time(sink, deadline, psprintf("read topic \"%s\"", sink->state_name));
		(void) rd_kafka_poll(sink->reader, KAFKA_SLICE / 4);
	}
	look_back(sink, high, deadline, &found);
	later = Max(found.start.timeline, found.marker.timeline);
	if (later > sink->timeline)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" was taken over by a server on timeline %u, this one is on timeline %u",
						sink->state->subscription, later, sink->timeline),
				 errhint("If this is the former primary, end it.  If it is the one to go on, delete the records of key \"%s\" from topic \"%s\".",
						 sink->state->identity, sink->state_name)));
}

/*
 * Take over the transactional id.
 */
static void
init_transactions(KafkaSink *sink, TimestampTz deadline)
{
	rd_kafka_error_t *error;

	while ((error = rd_kafka_init_transactions(sink->producer, KAFKA_SLICE)) != NULL)
	{
		if (!rd_kafka_error_is_retriable(error))
			kafka_report(sink, error, "initialize transactions");
		rd_kafka_error_destroy(error);
		kafka_check_time(sink, deadline, "initialize transactions");
		(void) rd_kafka_poll(sink->producer, KAFKA_SLICE / 4);
	}
}

/*
 * Write down that this server has started; returns where.
 */
static int64
write_start(KafkaSink *sink, TimestampTz deadline)
{
	char	   *value = psprintf(MARKER_FORMAT "}", INT64CONST(0), sink->timeline);
	rd_kafka_error_t *error;

	kafka_begin(sink);
	kafka_begin_round(sink);
	(void) kafka_send_own(sink, start_key(sink), value);
	kafka_find_topics(sink);
	error = kafka_commit(sink, deadline);
	if (error != NULL)
		kafka_report(sink, error, psprintf("write to topic \"%s\"", sink->state_name));
	if (sink->inbox->own_answer != RD_KAFKA_RESP_ERR_NO_ERROR || sink->inbox->own_offset < 0)
		kafka_report_topic(sink, "write to", sink->inbox->own_answer);
	return sink->inbox->own_offset;
}

/*
 * Become the one that has the transactional id, and learn which delivery was the
 * last one before.
 */
void
kafka_enter_transactions(KafkaSink *sink, TimestampTz deadline)
{
	Found		found;

	sink->timeline = GetWALInsertionTimeLine();
	kafka_open_reader(sink, deadline);
	check_timeline(sink, deadline);
	oi_sink_fault("kafka:start");
	init_transactions(sink, deadline);
	look_back(sink, write_start(sink, deadline), deadline, &found);
	sink->marker = found.marker;
	sink->without = MemoryContextStrdup(sink->state->context, found.without);
	kafka_close(sink, KAFKA_END_READER);
	oi_sink_fault("kafka:started");
}

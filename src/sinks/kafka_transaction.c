/*-------------------------------------------------------------------------
 *
 * kafka_transaction.c
 *		A delivery as one transaction of Kafka's, with its marker.
 *
 * All of it is there when the commit is, and nothing when the abort is.  In
 * between nothing is known: an error is raised, the handle is ended, and the next
 * start finds out (kafka_state.c).
 *
 * One message that the broker does not take aborts all.  Then none of them is there, for
 * certain; the one is set aside, and so are those behind it of its key, by an
 * outcome with a reason.  The others are sent again, under the same number; its
 * marker says which events it is without.
 *
 * No transaction is begun with a handle after one that failed: librdkafka 2.0 asks
 * for another epoch behind our back then, and sends messages of the next one with
 * the old one's sequence numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault.h"
#include "kafka_sink.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/*
 * Each message was not taken among others, and is taken alone: from then on, in
 * this process, they are sent one by one.
 */
static bool one_by_one = false;

/*
 * Begin a transaction.
 */
void
kafka_begin(KafkaSink *sink)
{
	rd_kafka_error_t *error = rd_kafka_begin_transaction(sink->producer);

	if (error != NULL)
		kafka_report(sink, error, "begin a transaction");
}

/*
 * Commit it.  Returns NULL, or why it has to be aborted; raises an error where it
 * is not known whether it was committed.
 */
rd_kafka_error_t *
kafka_commit(KafkaSink *sink, TimestampTz deadline)
{
	rd_kafka_error_t *error;

	/* a time-out is no answer: the next call goes on with it */
	while ((error = rd_kafka_commit_transaction(sink->producer, KAFKA_SLICE)) != NULL)
	{
		if (rd_kafka_error_txn_requires_abort(error))
			return error;
		if (!rd_kafka_error_is_retriable(error))
			kafka_report(sink, error, "commit a transaction");
		rd_kafka_error_destroy(error);
		kafka_check_time(sink, deadline, "commit a transaction");
	}
	return NULL;
}

/*
 * Abort it; raises an error where it is not known whether that was done.
 */
void
kafka_abort(KafkaSink *sink, TimestampTz deadline)
{
	rd_kafka_error_t *error;

	while ((error = rd_kafka_abort_transaction(sink->producer, KAFKA_SLICE)) != NULL)
	{
		if (!rd_kafka_error_is_retriable(error))
			kafka_report(sink, error, "abort a transaction");
		rd_kafka_error_destroy(error);
		kafka_check_time(sink, deadline, "abort a transaction");
	}
}

/*
 * Why did a transaction fail, of which librdkafka only says that it has?  It cannot be
 * committed then, and so we may ask it to.
 */
static rd_kafka_resp_err_t
ask_why(KafkaSink *sink)
{
	rd_kafka_error_t *error = rd_kafka_commit_transaction(sink->producer, 0);
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_UNKNOWN;

	if (error != NULL)
	{
		code = rd_kafka_error_code(error);
		rd_kafka_error_destroy(error);
	}
	return code;
}

/*
 * Wait until all messages have an answer.  Anything but success: one has not, and
 * will not have one in this transaction.
 */
static rd_kafka_resp_err_t
await_answers(KafkaSink *sink, const OiSinkEvent *probe, TimestampTz deadline)
{
	while (rd_kafka_flush(sink->producer, KAFKA_SLICE) != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

		kafka_check_time(sink, deadline, "deliver a message");

		/*
		 * nobody tells that a transaction failed but who is asked to send
		 * more
		 */
		if (probe != NULL)
			code = kafka_send(sink, probe, OI_SINK_MAX_EVENTS + 1);
		if (code == RD_KAFKA_RESP_ERR__STATE)
			code = ask_why(sink);
		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
			return code;
	}
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/*
 * Is an answer about the one message?
 */
static bool
is_own_fault(rd_kafka_resp_err_t answer)
{
	KafkaVerdict verdict = kafka_verdict(answer);

	return verdict == KAFKA_REJECTED || verdict == KAFKA_REFUSED;
}

/*
 * Set aside the event that an answer is about.
 */
static void
set_aside(const KafkaSink *sink, OiSinkEvent *events, int n, int which, rd_kafka_resp_err_t answer)
{
	bool		rejected = kafka_verdict(answer) == KAFKA_REJECTED;

	if (rejected)
		kafka_remember_refusal(sink->state, &events[which], answer);
	kafka_set_aside(events, n, which, rejected ? OI_SINK_REJECTED : OI_SINK_RETRY,
					psprintf("Kafka: %s", rd_kafka_err2str(answer)));
}

/*
 * Set aside what earlier calls for this delivery found.
 */
static void
set_aside_again(const KafkaSink *sink, OiSinkEvent *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t answer = kafka_recall_refusal(sink->state, &events[i]);

		if (answer != RD_KAFKA_RESP_ERR_NO_ERROR && events[i].reason == NULL)
			set_aside(sink, events, n, i, answer);
	}
}

/*
 * Send all events.  One that librdkafka refuses by itself is set aside: nothing of it is in
 * the transaction, which is none the worse for it.  Returns how many were done; where it
 * refuses for another reason that is the answer to the next.
 */
static int
send_all(KafkaSink *sink, OiSinkEvent *events, int n, TimestampTz deadline)
{
	for (int i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t code;

		if (events[i].reason != NULL)
			continue;
		code = kafka_send(sink, &events[i], i);
		if (is_own_fault(code))
		{
			set_aside(sink, events, n, i, code);
			continue;
		}
		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			sink->inbox->answers[i] = code;
			return i;
		}
		if (one_by_one)
		{
			kafka_find_topics(sink);
			(void) await_answers(sink, NULL, deadline);
		}
		if (i % 64 == 63)
		{
			CHECK_FOR_INTERRUPTS();
			rd_kafka_poll(sink->producer, 0);
		}
	}
	return n;
}

/*
 * Try an event in a transaction that will be aborted whatever comes of it.  An
 * answer that is not about the event is an error: it is not to blame for that.
 */
static rd_kafka_resp_err_t
try_event(KafkaSink *sink, const OiSinkEvent *event, TimestampTz deadline)
{
	rd_kafka_resp_err_t code;

	if (sink->producer == NULL)
		kafka_open(sink, deadline);
	kafka_begin(sink);
	kafka_begin_round(sink);
	code = kafka_send(sink, event, 0);
	kafka_find_topics(sink);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = await_answers(sink, event, deadline);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = sink->inbox->answers[0];
	kafka_abort(sink, deadline);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		kafka_close(sink, KAFKA_END_HANDLES);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR && !is_own_fault(code))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not find out which message was refused: %s%s",
						rd_kafka_err2str(code), kafka_complaint(sink))));
	return code;
}

/*
 * The largest of those that may be to blame, or -1.
 */
static int
largest(const OiSinkEvent *events, const bool *suspects, int n)
{
	size_t		most = 0;
	int			found = -1;

	for (int i = 0; i < n; i++)
	{
		size_t		size = suspects[i] && events[i].payload ? strlen(events[i].payload) : 0;

		if (suspects[i] && (found < 0 || size > most))
		{
			found = i;
			most = size;
		}
	}
	return found;
}

/*
 * What holds for one event of a topic holds for the others: that the topic refuses
 * them, or that it takes all that are not larger.
 */
static void
acquit_topic(const KafkaSink *sink, OiSinkEvent *events, bool *suspects, int n, const char *topic,
			 rd_kafka_resp_err_t code)
{
	for (int i = 0; i < n; i++)
	{
		if (!suspects[i] || strcmp(events[i].topic, topic) != 0)
			continue;
		suspects[i] = false;
		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
			set_aside(sink, events, n, i, code);
	}
}

/*
 * More than one message was not taken, or none of them says that it was the
 * reason: a whole batch of them is refused for one, and a topic for all that go
 * there.  Try them singly, the largest first.  Returns how many were set aside,
 * at least: if time is up, some is better than none.
 */
static int
examine(KafkaSink *sink, OiSinkEvent *events, int n, TimestampTz deadline)
{
	bool	   *suspects = palloc(sizeof(bool) * n);
	bool		any = false;
	bool		by_size = true;
	int			failed = 0;
	int			which;

	for (int i = 0; i < n; i++)
	{
		suspects[i] = is_own_fault(sink->inbox->answers[i]);
		any |= suspects[i];
		by_size &= !suspects[i] || sink->inbox->answers[i] == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
	}
	for (int i = 0; i < n && !any; i++)
		suspects[i] = events[i].reason == NULL;
	kafka_close(sink, KAFKA_END_HANDLES);
	while ((which = largest(events, suspects, n)) >= 0 &&
		   (failed == 0 || GetCurrentTimestamp() < deadline))
	{
		rd_kafka_resp_err_t code;

		suspects[which] = false;
		if (events[which].reason != NULL)
			continue;
		code = try_event(sink, &events[which], deadline);
		if (is_own_fault(code))
		{
			failed++;
			set_aside(sink, events, n, which, code);
			oi_sink_fault("kafka:found");
		}
		if (kafka_verdict(code) == KAFKA_REFUSED || (code == RD_KAFKA_RESP_ERR_NO_ERROR && (by_size || !any)))
			acquit_topic(sink, events, suspects, n, events[which].topic, code);
	}
	return failed;
}

/*
 * A transaction was aborted, for certain.  Find out which event is to blame, or
 * raise an error: then it is the receiver.
 */
static void
blame(KafkaSink *sink, OiSinkEvent *events, int n, rd_kafka_error_t *error, TimestampTz deadline)
{
	rd_kafka_resp_err_t why = error ? rd_kafka_error_code(error) : RD_KAFKA_RESP_ERR_NO_ERROR;
	int			failed = 0;
	int			last = -1;

	for (int i = 0; i < n; i++)
	{
		if (is_own_fault(sink->inbox->answers[i]))
		{
			failed++;
			last = i;
		}
	}
	if (failed == 0 && !is_own_fault(why))
		kafka_report(sink, error, "commit a transaction");
	if (error != NULL)
		rd_kafka_error_destroy(error);
	if (failed == 1)
	{
		set_aside(sink, events, n, last, sink->inbox->answers[last]);
		return;
	}
	if (examine(sink, events, n, deadline) > 0)
		return;
	if (one_by_one || failed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not commit a transaction: %s", rd_kafka_err2str(why))));
	one_by_one = true;
	ereport(WARNING,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("the broker refuses batches of messages of which it takes each"),
			 errdetail("They are sent one by one, until the worker ends."),
			 errhint("Make option \"batch.size\" of the server less than the topic's max.message.bytes.")));
}

/*
 * The indexes of the events that were set aside, each between commas.
 */
static char *
list_aside(const OiSinkEvent *events, int n)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < n; i++)
		if (events[i].reason != NULL)
			appendStringInfo(&list, "%s%d,", list.len == 0 ? "," : "", events[i].index);
	return list.data;
}

/*
 * Send the events that are not set aside, in a transaction.  False: it was aborted,
 * and others were set aside.
 */
static bool
try_delivery(KafkaSink *sink, OiSinkEvent *events, int n, TimestampTz deadline)
{
	rd_kafka_error_t *error = NULL;

	kafka_begin(sink);
	kafka_begin_round(sink);
	oi_sink_fault("kafka:begun");
	if (send_all(sink, events, n, deadline) == n)
	{
		char	   *without = list_aside(events, n);

		kafka_send_marker(sink, without);
		kafka_find_topics(sink);
		oi_sink_fault("kafka:sent");
		error = kafka_commit(sink, deadline);
		oi_sink_fault("kafka:committed");
		if (error == NULL)
		{
			sink->marker = sink->state->token;
			sink->without = MemoryContextStrdup(sink->state->context, without);
			return true;
		}
	}
	kafka_abort(sink, deadline);
	oi_sink_fault("kafka:aborted");
	blame(sink, events, n, error, deadline);
	kafka_close(sink, KAFKA_END_HANDLES);
	return false;
}

/*
 * The delivery has been made: say so of all events but those that it was made
 * without.  These get another number.
 */
void
kafka_note_delivered(const KafkaSink *sink, OiSinkEvent *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		char		index[16];

		snprintf(index, sizeof(index), ",%d,", events[i].index);
		if (events[i].reason != NULL)
			continue;
		if (strstr(sink->without, index) == NULL)
			events[i].outcome = OI_SINK_DELIVERED;
		else
			events[i].reason = "not taken with the others of its delivery";
	}
}

/*
 * Is there an event that is not set aside?
 */
static bool
any_left(const OiSinkEvent *events, int n)
{
	for (int i = 0; i < n; i++)
		if (events[i].reason == NULL)
			return true;
	return false;
}

/*
 * Deliver events in a transaction, without those that are refused.  An event that is
 * refused while one of its key before it is not delivered would count for nothing.
 */
void
kafka_deliver_transaction(KafkaSink *sink, OiSinkEvent *events, int n, TimestampTz deadline)
{
	set_aside_again(sink, events, n);
	while (any_left(events, n))
	{
		if (sink->producer == NULL)
		{
			kafka_check_time(sink, deadline, "deliver what is not refused");
			kafka_open(sink, deadline);
		}
		if (try_delivery(sink, events, n, deadline))
		{
			kafka_note_delivered(sink, events, n);
			return;
		}
	}
}

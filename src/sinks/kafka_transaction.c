/*-------------------------------------------------------------------------
 *
 * kafka_transaction.c
 *		A delivery as one transaction of Kafka's, with its marker.
 *
 * All of it is there when the commit is, and nothing when the abort is.  In
 * between nothing is known: an error is raised, the handle is ended, and the next
 * start finds out (kafka_state.c).
 *
 * One message that is not taken aborts all.  Then none of them is there, for
 * certain; the one is set aside, and so are those behind it of its key, by an
 * outcome with a reason.  All others are left without, and so come again, under
 * the same number, which has no marker yet.
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
 * Wait until all messages have an answer.  False: one has not, and will not have
 * one in this transaction.
 */
static bool
await_answers(KafkaSink *sink, const OiSinkEvent *probe, TimestampTz deadline)
{
	while (rd_kafka_flush(sink->producer, KAFKA_SLICE) != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		kafka_check_time(sink, deadline, "deliver a message");

		/*
		 * of a transaction that failed nobody tells us but who is asked to
		 * send more
		 */
		if (probe != NULL &&
			kafka_send(sink, probe, OI_SINK_MAX_EVENTS + 1) != RD_KAFKA_RESP_ERR_NO_ERROR)
			return false;
	}
	return true;
}

/*
 * Send all events.  Returns how many were: librdkafka may refuse one by itself, which
 * is its answer then.
 */
static int
send_all(KafkaSink *sink, const OiSinkEvent *events, int n, TimestampTz deadline)
{
	for (int i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t code = kafka_send(sink, &events[i], i);

		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			sink->inbox->answers[i] = code;
			return i;
		}
		if (one_by_one)
			(void) await_answers(sink, NULL, deadline);
		if (i % 64 == 63)
		{
			CHECK_FOR_INTERRUPTS();
			rd_kafka_poll(sink->producer, 0);
		}
	}
	return n;
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
 * Set aside the event that an answer is about, and those behind it of its key.
 */
static void
set_aside(OiSinkEvent *events, int n, int which, rd_kafka_resp_err_t answer)
{
	if (events[which].reason != NULL)
		return;
	events[which].outcome = kafka_verdict(answer) == KAFKA_REJECTED ? OI_SINK_REJECTED : OI_SINK_RETRY;
	events[which].reason = psprintf("Kafka: %s", rd_kafka_err2str(answer));
	for (int i = which + 1; i < n; i++)
		if (events[i].reason == NULL && strcmp(events[i].key, events[which].key) == 0)
			events[i].reason = "not sent: one of its key before it was not taken";
}

/*
 * Try an event in a transaction that will be aborted whatever comes of it.
 */
static rd_kafka_resp_err_t
try_event(KafkaSink *sink, const OiSinkEvent *event, rd_kafka_resp_err_t otherwise, TimestampTz deadline)
{
	rd_kafka_resp_err_t code;

	kafka_begin(sink);
	kafka_begin_round(sink);
	code = kafka_send(sink, event, 0);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = await_answers(sink, event, deadline) ? sink->inbox->answers[0] : otherwise;
	kafka_abort(sink, deadline);
	return code;
}

/*
 * More than one message was not taken, or none of them says that it was the
 * reason: a whole batch of them is refused for one, and a topic for all that go
 * there.  Try them singly.  Returns how many were set aside.
 */
static int
examine(KafkaSink *sink, OiSinkEvent *events, int n, rd_kafka_resp_err_t why, TimestampTz deadline)
{
	rd_kafka_resp_err_t *answers = palloc(sizeof(*answers) * n);
	const char *topic = NULL;	/* that was tried last */
	rd_kafka_resp_err_t of_topic = RD_KAFKA_RESP_ERR_NO_ERROR;
	bool		any = false;
	int			failed = 0;

	memcpy(answers, sink->inbox->answers, sizeof(*answers) * n);
	for (int i = 0; i < n; i++)
		any |= is_own_fault(answers[i]);
	for (int i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t code;

		if (events[i].reason != NULL || (any && !is_own_fault(answers[i])))
			continue;
		if (topic != NULL && strcmp(topic, events[i].topic) == 0 &&
			(kafka_verdict(of_topic) == KAFKA_REFUSED || !any))
			code = of_topic;
		else
			code = try_event(sink, &events[i], why, deadline);
		topic = events[i].topic;
		of_topic = code;
		if (!is_own_fault(code))
			continue;
		failed++;
		set_aside(events, n, i, code);
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
		set_aside(events, n, last, sink->inbox->answers[last]);
		return;
	}
	if (examine(sink, events, n, why, deadline) > 0)
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
 * Deliver events in a transaction.
 */
void
kafka_deliver_transaction(KafkaSink *sink, OiSinkEvent *events, int n, TimestampTz deadline)
{
	rd_kafka_error_t *error = NULL;

	kafka_begin(sink);
	kafka_begin_round(sink);
	oi_sink_fault("kafka:begun");
	if (send_all(sink, events, n, deadline) == n)
	{
		kafka_send_marker(sink);
		oi_sink_fault("kafka:sent");
		error = kafka_commit(sink, deadline);
		oi_sink_fault("kafka:committed");
		if (error == NULL)
		{
			for (int i = 0; i < n; i++)
				events[i].outcome = OI_SINK_DELIVERED;
			sink->marker = sink->state->token;
			return;
		}
	}
	kafka_abort(sink, deadline);
	oi_sink_fault("kafka:aborted");
	blame(sink, events, n, error, deadline);
}

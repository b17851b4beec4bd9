/*-------------------------------------------------------------------------
 *
 * nats_publish.c
 *		The sink "nats": publishing a batch and waiting for the acknowledgements.
 *
 * All of this runs in the sink's thread, nats_acknowledged() in one of the library's,
 * and calls nothing of the server's.
 *
 * Messages go out as fast as the window lets them, each of a key when the one
 * before it is stored.  Each has its own acknowledgement, in which the stream says
 * that it stored the message, or that it has one of that id already.
 *
 * A connection on which answers are missing at the end of a job is given up, so
 * that none can come for a later one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nats_sink.h"

/* ms to wait for the library before other things are looked at */
#define GLANCE 100

/* answers of a stream that hold for this message for ever */
#define MESSAGE_TOO_LARGE 10054
#define HEADER_TOO_LARGE 10097

/*
 * Set down what became of a message.  The mutex is held.
 */
static void
settle(NatsJob *job, int which, NatsFate fate, char *answer)
{
	NatsMessage *message = &job->messages[which];

	message->fate = fate;
	message->answer = answer;
	message->sent = NULL;
	job->in_flight--;
	job->bytes_in_flight -= message->size;
	job->heard = nats_clock();
	if (fate == NATS_FATE_STORED)
		oi_keys_delivered(&job->queue, which);
	while (job->settled < job->nsent &&
		   job->messages[job->sent[job->settled]].fate > NATS_FATE_SENT)
		job->settled++;
}

/*
 * The message of a job that the library speaks of, or -1.  The mutex is held.
 */
static int
find_sent(const NatsJob *job, const natsMsg * message)
{
	for (int i = job->settled; i < job->nsent; i++)
		if (job->messages[job->sent[i]].sent == message)
			return job->sent[i];
	return -1;
}

/*
 * A text that lasts, made of a status and what there is besides.
 */
static char *
describe(const char *subject, natsStatus status, int code, const char *text)
{
	char		answer[400];

	if (status == NATS_NO_RESPONDERS)
		snprintf(answer, sizeof(answer), "no stream takes subject \"%.255s\"", subject);
	else if (code != 0)
		snprintf(answer, sizeof(answer), "stream answered %d %.255s", code, text ? text : "");
	else
		snprintf(answer, sizeof(answer), "%s", text &&text[0] ? text : natsStatus_GetText(status));
	return strdup(answer);
}

/*
 * Is there something for the thread that publishes to do?  Where the window is full
 * it is not woken before half of it is free: each time costs more than a message.  The
 * mutex is held.
 */
static bool
is_needed(const NatsJob *job)
{
	if (job->in_flight == 0)
		return true;
	return oi_keys_ready(&job->queue) &&
		(job->starved ||
		 (job->in_flight <= job->sink->max_in_flight / 2 &&
		  job->bytes_in_flight <= NATS_BYTES_IN_FLIGHT / 2));
}

/*
 * Called by the library, in a thread of its own: an answer to a message.
 */
void
nats_acknowledged(jsCtx * js, natsMsg * message, jsPubAck * ack, jsPubAckErr * error, void *arg)
{
	NatsSink   *sink = arg;
	NatsJob    *job;
	int			which = -1;

	pthread_mutex_lock(&sink->mutex);
	job = sink->job;
	if (job != NULL)
		which = find_sent(job, message);
	if (which >= 0 && ack != NULL)
	{
		if (strcmp(job->stored_in, ack->Stream) != 0)
			snprintf(job->stored_in, sizeof(job->stored_in), "%s", ack->Stream);
		settle(job, which, NATS_FATE_STORED, NULL);
	}
	else if (which >= 0 && error != NULL)
	{
		int			code = (int) error->ErrCode;

		settle(job, which,
			   code == MESSAGE_TOO_LARGE || code == HEADER_TOO_LARGE ? NATS_FATE_REJECTED : NATS_FATE_REFUSED,
			   describe(job->messages[which].subject, error->Err, code, error->ErrText));
	}
	if (job != NULL && is_needed(job))
		pthread_cond_signal(&sink->heard);
	pthread_mutex_unlock(&sink->mutex);
	natsMsg_Destroy(message);
}

/*
 * The library's form of a message.
 */
static natsStatus
make_message(const NatsMessage *message, natsMsg * *made)
{
	natsStatus	status = natsMsg_Create(made, message->subject, NULL, message->data, message->length);

	for (int i = 0; i < message->nheaders && status == NATS_OK; i++)
		status = natsMsgHeader_Set(*made, message->headers[i].name, message->headers[i].value);
	return status;
}

/*
 * Publish one message, which counts as sent already.
 */
static void
publish_one(NatsJob *job, int which)
{
	NatsSink   *sink = job->sink;
	NatsMessage *message = &job->messages[which];
	jsPubOptions options;
	natsMsg    *made = NULL;
	natsStatus	status;

	(void) jsPubOptions_Init(&options);
	options.MsgId = message->id;
	options.ExpectStream = sink->stream;
	status = make_message(message, &made);
	pthread_mutex_lock(&sink->mutex);
	message->sent = made;
	pthread_mutex_unlock(&sink->mutex);
	if (status == NATS_OK)
		status = js_PublishMsgAsync(sink->stream_context, &made, &options);
	if (status == NATS_OK)
		return;

	/*
	 * none of it was sent, or the connection is broken; the library has let
	 * go of it
	 */
	pthread_mutex_lock(&sink->mutex);
	if (status == NATS_MAX_PAYLOAD || status == NATS_INVALID_ARG)
		settle(job, which, NATS_FATE_REJECTED,
			   describe(message->subject, status, 0,
						status == NATS_MAX_PAYLOAD ? "message is larger than the server's max_payload" : NULL));
	else if (job->error[0] == '\0')
		snprintf(job->error, sizeof(job->error), "could not publish: %s", natsStatus_GetText(status));
	pthread_mutex_unlock(&sink->mutex);
	natsMsg_Destroy(made);
}

/*
 * Take the next message that may be sent, and count it as sent; -1: none may be.
 * The mutex is held.
 */
static int
take_next(NatsJob *job)
{
	NatsMessage *message;
	int			which;

	if (!oi_keys_ready(&job->queue) || job->error[0] != '\0')
		return -1;
	message = &job->messages[job->queue.ready[job->queue.first]];
	if (job->in_flight > 0 &&
		(job->in_flight >= job->sink->max_in_flight ||
		 job->bytes_in_flight + message->size > NATS_BYTES_IN_FLIGHT))
		return -1;
	which = oi_keys_take(&job->queue);
	message->fate = NATS_FATE_SENT;
	if (job->in_flight == 0)
		job->heard = nats_clock();
	job->sent[job->nsent++] = which;
	job->in_flight++;
	job->bytes_in_flight += message->size;
	return which;
}

/*
 * Wait until something came, or for a short time.  The mutex is held.
 */
static void
wait_for_news(NatsJob *job)
{
	NatsSink   *sink = job->sink;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += GLANCE * 1000000L;
	if (until.tv_nsec >= 1000000000L)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	job->starved = !oi_keys_ready(&job->queue);
	(void) pthread_cond_timedwait(&sink->heard, &sink->mutex, &until);
	job->starved = false;
}

/*
 * Is there a reason to end the job early?  The mutex is held.
 */
static bool
is_over(NatsJob *job)
{
	NatsSink   *sink = job->sink;

	if (job->error[0] != '\0' || sink->hurry)
		return true;
	if (sink->closed)
		snprintf(job->error, sizeof(job->error), "connection was lost");
	else if (nats_clock() - job->heard >= sink->timeout)
		snprintf(job->error, sizeof(job->error), "no acknowledgement for %d ms", sink->timeout);
	return job->error[0] != '\0';
}

/*
 * Publish the messages of a job and wait for what becomes of them.
 */
static void
exchange(NatsJob *job)
{
	NatsSink   *sink = job->sink;
	int			which;

	pthread_mutex_lock(&sink->mutex);
	sink->job = job;
	job->heard = nats_clock();
	while ((job->in_flight > 0 || oi_keys_ready(&job->queue)) && !is_over(job))
	{
		which = take_next(job);
		if (which < 0)
		{
			wait_for_news(job);
			continue;
		}
		pthread_mutex_unlock(&sink->mutex);
		publish_one(job, which);
		pthread_mutex_lock(&sink->mutex);
	}
	sink->job = NULL;
	pthread_mutex_unlock(&sink->mutex);
}

/*
 * A server that lets somebody not publish does not answer the message, but tells the
 * connection.
 */
static void
add_last_error(NatsJob *job)
{
	const char *text = NULL;
	size_t		len = strlen(job->error);

	if (natsConnection_GetLastError(job->sink->connection, &text) != NATS_OK && text !=NULL)
		snprintf(job->error + len, sizeof(job->error) - len, ": %s", text);
}

/*
 * A job, from its beginning to its end.
 */
void
nats_publish(void *arg)
{
	NatsJob    *job = arg;
	NatsSink   *sink = job->sink;

	nats_idle(sink);
	if (sink->connection == NULL && !nats_connect(sink, job))
		return;
	exchange(job);
	if (job->stored_in[0] != '\0' && job->error[0] == '\0')
		nats_look_at_stream(sink, job, job->stored_in);
	if (job->error[0] != '\0')
		add_last_error(job);
	if (job->in_flight > 0 || job->error[0] != '\0')
		nats_disconnect(sink);
}
